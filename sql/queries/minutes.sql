-- Minutes of event time, oldest first: all calls, failed ones, the quantiles of their durations, and usage.
-- noqa: disable=RF02
SELECT
    m.start,
    coalesce(sums.calls, 0) AS calls,
    coalesce(sums.errors, 0) AS errors,
    coalesce(sums.tokens, 0) AS tokens,
    coalesce(sums.cost, 0) AS cost,
    durations.p50 AS p50_ms,
    durations.p95 AS p95_ms,
    durations.p99 AS p99_ms
FROM
    generate_series(
        date_trunc('minute', %(now)s::timestamptz) - (%(minutes)s - 1) * interval '1 minute',
        date_trunc('minute', %(now)s::timestamptz),
        interval '1 minute'
    ) AS m (start)
LEFT JOIN LATERAL (
    SELECT
        sum(w.count) FILTER (WHERE w.signal = 'calls')::bigint AS calls,
        sum(w.count) FILTER (WHERE w.signal = 'calls' AND w.status = 'failed')::bigint AS errors,
        sum(w.tokens_prompt + w.tokens_completion) FILTER (WHERE w.signal = 'usage_by_model')::bigint AS tokens,
        sum(w.cost) FILTER (WHERE w.signal = 'usage_by_model') AS cost
    FROM slate.windows AS w
    WHERE m.start = w.start AND w.seconds = 60 AND w.signal IN ('calls', 'usage_by_model')
) AS sums ON TRUE
LEFT JOIN LATERAL (
    SELECT
        q.p50,
        q.p95,
        q.p99
    FROM (
        SELECT jsonb_object_agg(one.bin, one.n) AS bins
        FROM (
            SELECT
                b.key AS bin,
                sum(b.value::bigint) AS n
            FROM slate.windows AS w
            CROSS JOIN jsonb_each_text(w.bins) AS b
            WHERE m.start = w.start AND w.seconds = 60 AND w.signal = 'calls'
            GROUP BY b.key
        ) AS one
    ) AS summed
    CROSS JOIN slate.quantiles(summed.bins) AS q
) AS durations ON TRUE
ORDER BY m.start
