-- Calls of the time that is shown, and the share of them that failed.
SELECT
    coalesce(sum(count), 0) AS calls,
    sum(count) FILTER (WHERE status = 'failed') / nullif(sum(count), 0) AS error_rate
FROM slate.windows
WHERE
    $__timeFilter(start)
    AND seconds = 300
    AND signal = 'calls'
    AND key = any(ARRAY[${function:sqlstring}]::text[])
