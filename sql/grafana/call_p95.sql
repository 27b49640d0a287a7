-- 95th percentile of the calls' durations (milliseconds, to 1 %) by function over time. Windows of five minutes where
-- they are fine enough, and of many weeks every third one, so that it takes no longer than a reader may.
WITH windows AS MATERIALIZED (
    SELECT
        $__timeGroup(start, $__interval)::bigint AS time,
        key AS function,
        bins
    FROM slate.windows
    WHERE
        $__timeFilter(start)
        AND seconds = CASE WHEN $__interval_ms >= 300000 THEN 300 ELSE 60 END
        AND ($__interval_ms < 1200000 OR extract(EPOCH FROM start)::bigint % 900 = 0)
        AND signal = 'calls'
        AND key = any(ARRAY[${function:sqlstring}]::text[])
)

SELECT
    time,
    function,
    slate.quantile(jsonb_object_agg(bin, n), 0.95) AS p95_ms
FROM (
    SELECT
        w.time,
        w.function,
        b.key::integer AS bin,
        sum(b.value::integer) AS n
    FROM windows AS w
    CROSS JOIN jsonb_each_text(w.bins) AS b (key, value)
    GROUP BY w.time, w.function, b.key::integer
) AS histograms
GROUP BY time, function
ORDER BY time, function
