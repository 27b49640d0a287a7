-- Remember what was spent in the current periods.
INSERT INTO slate.alert_budgets (stream, rule, key, period, spent)
SELECT
    %(stream)s,
    rule,
    key,
    period,
    spent
FROM
    unnest(%(rule)b::text[], %(key)b::text[], %(period)b::timestamptz[], %(spent)b::bigint[])
        AS new (rule, key, period, spent)
ON CONFLICT (stream, rule, key) DO UPDATE SET period = excluded.period, spent = excluded.spent
