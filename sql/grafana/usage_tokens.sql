-- Tokens by model over time.
SELECT
    $__timeGroupAlias(start, $__interval, 0),
    key AS model,
    sum(tokens_prompt + tokens_completion) AS tokens
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = CASE WHEN $__interval_ms >= 300000 THEN 300 ELSE 60 END
    AND signal = 'usage_by_model'
    AND key = any(ARRAY[${model:sqlstring}]::text[])
GROUP BY 1, 2
ORDER BY 1, 2
