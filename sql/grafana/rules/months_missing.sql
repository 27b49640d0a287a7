-- 1 where the partition of next month is missing, for `slate maintain` has not run.
SELECT
    now() AS time,
    count(*) AS months
FROM to_char(now() AT TIME ZONE 'UTC' + interval '1 month', '"public.spark_events_"YYYY_MM') AS wanted (name)
WHERE to_regclass(wanted.name) IS NULL
