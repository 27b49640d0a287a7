-- Outcomes of calls of all sessions by day (UTC) and function.
SELECT
    day,
    name,
    success_count,
    error_count,
    error_rate
FROM public.spark_errors_daily
WHERE day >= %(since)s AND day < %(until)s
ORDER BY day, name
LIMIT %(most)s
