-- Add to windows. One that was closed is open again, and what was added to it came late.
INSERT INTO slate.windows AS old (
    start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost, bins, late
)
SELECT
    start,
    seconds,
    signal,
    key,
    status,
    count,
    tokens_prompt,
    tokens_completion,
    cost * 0.000001,
    bins::jsonb,
    late
FROM
    unnest(
        %(start)b::timestamptz[], %(seconds)b::integer[], %(signal)b::text[], %(key)b::text[], %(status)b::text[],
        %(count)b::bigint[], %(tokens_prompt)b::bigint[], %(tokens_completion)b::bigint[], %(cost)b::bigint[],
        %(bins)b::text[], %(late)b::bigint[]
    ) AS new (
        start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost, bins, late
    )
ORDER BY start, seconds, signal, key, status
ON CONFLICT (start, seconds, signal, key, status) DO UPDATE SET
    count = old.count + excluded.count,
    tokens_prompt = old.tokens_prompt + excluded.tokens_prompt,
    tokens_completion = old.tokens_completion + excluded.tokens_completion,
    cost = old.cost + excluded.cost,
    bins = slate.add_bins(old.bins, excluded.bins),
    late = old.late + CASE WHEN old.closed_at IS NULL THEN excluded.late ELSE greatest(excluded.count, 0) END,
    closed_at = NULL,
    updated_at = now()
