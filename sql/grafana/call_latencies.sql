-- Calls, failed ones and durations (milliseconds, to 1 %) of the time that is shown by function, the slowest first.
SELECT
    totals.function,
    totals.calls,
    totals.error_rate,
    slate.quantile(histograms.bins, 0.5) AS p50_ms,
    slate.quantile(histograms.bins, 0.95) AS p95_ms,
    slate.quantile(histograms.bins, 0.99) AS p99_ms
FROM (
    SELECT
        key AS function,
        sum(count) AS calls,
        coalesce(sum(count) FILTER (WHERE status = 'failed'), 0) / nullif(sum(count), 0) AS error_rate
    FROM slate.windows
    WHERE
        $__timeFilter(start)
        AND seconds = 300
        AND signal = 'calls'
        AND key = any(ARRAY[${function:sqlstring}]::text[])
    GROUP BY key
) AS totals
LEFT JOIN (
    SELECT
        function,
        jsonb_object_agg(bin, n) AS bins
    FROM (
        SELECT
            w.key AS function,
            b.key AS bin,
            sum(b.value::bigint) AS n
        FROM slate.windows AS w
        CROSS JOIN jsonb_each_text(w.bins) AS b (key, value)
        WHERE $__timeFilter(w.start) AND w.seconds = 300 AND w.signal = 'calls'
        GROUP BY w.key, b.key
    ) AS summed
    GROUP BY function
) AS histograms ON totals.function = histograms.function
ORDER BY p95_ms DESC NULLS LAST
