-- What was spent in the current periods. Times in microseconds.
SELECT
    rule,
    key,
    (extract(EPOCH FROM period) * 1000000)::bigint AS period,
    spent
FROM slate.alert_budgets
WHERE stream = %(stream)s
