-- Tokens and cost (US dollars) of the time that is shown.
SELECT
    coalesce(sum(tokens_prompt + tokens_completion), 0) AS tokens,
    coalesce(sum(cost), 0) AS cost
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = 300
    AND signal = 'usage_by_model'
    AND key = any(ARRAY[${model:sqlstring}]::text[])
