-- Partitions of spark_events that should be there by now and are not: this month's and the next one's (UTC).
SELECT wanted.month_name AS missing
FROM (
    SELECT to_char(now() AT TIME ZONE 'UTC', '"spark_events_"YYYY_MM') AS month_name
    UNION ALL
    SELECT
        to_char(
            date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', '"spark_events_"YYYY_MM'
        ) AS month_name
) AS wanted
WHERE to_regclass('public.' || wanted.month_name) IS NULL
