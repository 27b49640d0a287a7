-- Make the windows since a time what the tables say. Delays of ingest are in no table, and stay.
-- noqa: disable=RF02,AM06,RF01
INSERT INTO slate.windows AS old (
    start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost, bins, late
)
SELECT
    to_timestamp(floor(extract(EPOCH FROM ts) / seconds) * seconds) AS start,
    seconds,
    signal,
    key,
    status,
    sum(n),
    sum(tokens_prompt),
    sum(tokens_completion),
    sum(cost),
    slate.sum_bins(bins),
    0 AS late
FROM (
    SELECT
        date_trunc('minute', ts) AS ts,
        'calls' AS signal,
        name AS key,
        status,
        count(*) AS n,
        0 AS tokens_prompt,
        0 AS tokens_completion,
        0 AS cost,
        CASE
            WHEN slate.bin(duration_ms) IS NULL THEN '{}' ELSE jsonb_build_object(slate.bin(duration_ms), count(*))
        END AS bins
    FROM public.spark_function_calls
    WHERE ts >= %(since)s
    GROUP BY 1, name, status, slate.bin(duration_ms)
    UNION ALL
    SELECT
        date_trunc('minute', ts),
        signal,
        CASE signal WHEN 'usage_by_model' THEN model ELSE coalesce(user_id::text, '') END,
        '',
        count(*),
        sum(tokens_prompt),
        sum(tokens_completion),
        sum(cost_estimate),
        '{}'
    FROM public.spark_usage
    CROSS JOIN (VALUES ('usage_by_model'), ('usage_by_user')) AS signals (signal)
    WHERE ts >= %(since)s
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT
        date_trunc('minute', ts),
        'events',
        type,
        '',
        count(*),
        0,
        0,
        0,
        '{}'
    FROM public.spark_events
    WHERE ts >= %(since)s
    GROUP BY 1, type
    UNION ALL
    SELECT
        date_trunc('minute', stored_at),
        'dead_letters',
        code,
        '',
        count(*),
        0,
        0,
        0,
        '{}'
    FROM slate.dead_letters
    WHERE stored_at >= %(since)s
    GROUP BY 1, code
) AS minutes
CROSS JOIN (VALUES (60), (300)) AS lengths (seconds)
GROUP BY 1, seconds, signal, key, status
ON CONFLICT (start, seconds, signal, key, status) DO UPDATE SET
    count = excluded.count,
    tokens_prompt = excluded.tokens_prompt,
    tokens_completion = excluded.tokens_completion,
    cost = excluded.cost,
    bins = excluded.bins,
    closed_at = NULL,
    updated_at = now()
WHERE
(old.count, old.tokens_prompt, old.tokens_completion, old.cost, old.bins)
IS DISTINCT FROM
(excluded.count, excluded.tokens_prompt, excluded.tokens_completion, excluded.cost, excluded.bins)
