-- Make the partitions of spark_events for this month and the three after it, as far as they are missing.
SELECT slate.ensure_month((date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date)
FROM generate_series(0, 3) AS n
