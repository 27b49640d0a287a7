-- Make the partitions of spark_events for a day's month and the three after it, where they are missing; their names.
SELECT made.name
FROM (
    SELECT slate.ensure_month((date_trunc('month', %(today)s::date::timestamp) + n * interval '1 month')::date) AS name
    FROM generate_series(0, 3) AS n
) AS made
WHERE made.name IS NOT NULL
