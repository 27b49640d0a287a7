-- Windows of a signal that begin between two times, with the quantiles of what they measured.
-- noqa: disable=RF02
SELECT
    w.start,
    w.seconds,
    w.signal,
    w.key,
    w.status,
    w.count,
    w.tokens_prompt,
    w.tokens_completion,
    w.cost,
    w.late,
    w.closed_at,
    q.p50 AS p50_ms,
    q.p95 AS p95_ms,
    q.p99 AS p99_ms
FROM slate.windows AS w
CROSS JOIN slate.quantiles(w.bins) AS q
WHERE w.start >= %(since)s AND w.start < %(until)s AND w.seconds = %(seconds)s AND w.signal = %(signal)s
ORDER BY w.start, w.key, w.status
LIMIT %(most)s
