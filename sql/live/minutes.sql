-- The last minutes, oldest first: calls, failed ones, tokens, and the 95th percentile of the calls' durations.
SELECT
    coalesce(sum(w.count) FILTER (WHERE w.signal = 'calls'), 0)::bigint AS calls,
    coalesce(sum(w.count) FILTER (WHERE w.signal = 'calls' AND w.status = 'failed'), 0)::bigint AS failed,
    coalesce(
        sum(w.tokens_prompt + w.tokens_completion) FILTER (WHERE w.signal = 'usage_by_model'), 0
    )::bigint AS tokens,
    coalesce(slate.quantile(slate.sum_bins(w.bins) FILTER (WHERE w.signal = 'calls'), 0.95), 0) AS p95_ms
FROM generate_series(date_trunc('minute', now()) - %(minutes)s * interval '1 minute', now(), interval '1 minute') AS m
LEFT JOIN slate.windows AS w ON m = w.start AND w.seconds = 60
GROUP BY m
ORDER BY m
