-- Windows that were closed since they were sent last, the longest closed first.
SELECT
    start,
    seconds,
    signal,
    key,
    status,
    count,
    tokens_prompt,
    tokens_completion,
    cost,
    late,
    revision,
    closed_at,
    slate.quantile(bins, 0.5) AS p50_ms,
    slate.quantile(bins, 0.95) AS p95_ms,
    slate.quantile(bins, 0.99) AS p99_ms
FROM slate.windows
WHERE closed_at IS NOT NULL AND sent < revision
ORDER BY closed_at, start, seconds, signal, key, status
LIMIT %(most)s
