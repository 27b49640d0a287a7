-- Cost (US dollars) by UTC day and model.
SELECT
    day::timestamp AT TIME ZONE 'UTC' AS time,
    model,
    sum(cost_estimate) AS cost
FROM public.spark_usage_daily
WHERE
    day BETWEEN $__timeFrom()::date AND $__timeTo()::date
    AND model = any(ARRAY[${model:sqlstring}]::text[])
GROUP BY day, model
ORDER BY day, model
