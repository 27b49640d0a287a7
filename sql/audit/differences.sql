-- Where the daily tables differ from what they are counted from.
SELECT
    rollup,
    day,
    key,
    model,
    counted,
    wanted
FROM slate.rollup_differences(%(since)s, %(until)s)
ORDER BY day, rollup, key, model
