-- Usage of the days that are shown by model, the dearest first.
SELECT
    model,
    count(DISTINCT session_id) AS sessions,
    sum(tokens_prompt) AS tokens_prompt,
    sum(tokens_completion) AS tokens_completion,
    sum(cost_estimate) AS cost
FROM public.spark_usage_daily
WHERE
    day BETWEEN $__timeFrom()::date AND $__timeTo()::date
    AND model = any(ARRAY[${model:sqlstring}]::text[])
GROUP BY model
ORDER BY cost DESC
