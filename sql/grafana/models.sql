-- Values of the variable `model`: models used in the last 90 days.
SELECT DISTINCT model
FROM public.spark_usage_daily
WHERE day >= (now() AT TIME ZONE 'UTC')::date - 90
ORDER BY model
