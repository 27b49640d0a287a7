-- Values of the variable `function`: functions called in the last 90 days.
SELECT DISTINCT name
FROM public.spark_errors_daily
WHERE day >= (now() AT TIME ZONE 'UTC')::date - 90
ORDER BY name
