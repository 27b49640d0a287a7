-- Figures of a day (UTC) and of the minutes before a time, of all sessions.
-- noqa: disable=RF02
SELECT
    usage.tokens_prompt,
    usage.tokens_completion,
    usage.cost,
    outcomes.calls,
    outcomes.errors,
    CASE WHEN outcomes.calls > 0 THEN round(outcomes.errors / outcomes.calls::numeric, 6) END AS error_rate,
    recent.calls_per_minute,
    durations.p50 AS p50_ms,
    durations.p95 AS p95_ms,
    durations.p99 AS p99_ms,
    (
        SELECT count(*) FROM public.spark_sessions
        WHERE ended_at IS NULL AND started_at IS NOT NULL
    ) AS active_sessions,
    (
        SELECT count(*) FROM slate.alert_states
        WHERE status = 'firing'
    ) AS alerts,
    (
        SELECT count(*) FROM slate.dead_letters
        WHERE replayed_at IS NULL
    ) AS dead_letters,
    (
        SELECT max(updated_at) FROM slate.progress
        WHERE stream = %(stream)s
    ) AS stored_at,
    counting.behind
FROM (
    SELECT
        coalesce(sum(tokens_prompt), 0)::bigint AS tokens_prompt,
        coalesce(sum(tokens_completion), 0)::bigint AS tokens_completion,
        coalesce(sum(cost_estimate), 0) AS cost
    FROM public.spark_usage_daily
    WHERE day = (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
) AS usage
CROSS JOIN (
    SELECT
        coalesce(sum(success_count + error_count), 0)::bigint AS calls,
        coalesce(sum(error_count), 0)::bigint AS errors
    FROM public.spark_errors_daily
    WHERE day = (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
) AS outcomes
CROSS JOIN (
    SELECT round(coalesce(sum(count), 0) / 5.0, 1) AS calls_per_minute
    FROM slate.windows
    WHERE
        start >= date_trunc('minute', %(now)s::timestamptz) - interval '5 minutes'
        AND start < date_trunc('minute', %(now)s::timestamptz)
        AND seconds = 60
        AND signal = 'calls'
) AS recent
CROSS JOIN (
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
            WHERE
                w.start > %(now)s::timestamptz - interval '1 hour'
                AND w.start <= %(now)s::timestamptz
                AND w.seconds = 60
                AND w.signal = 'calls'
            GROUP BY b.key
        ) AS one
    ) AS summed
    CROSS JOIN slate.quantiles(summed.bins) AS q
) AS durations
CROSS JOIN (
    SELECT coalesce(sum(p.read - coalesce(r.read, 0)), 0)::bigint AS behind
    FROM slate.progress AS p
    LEFT JOIN slate.rollup_progress AS r ON p.stream = r.stream AND p.partition = r.partition
    WHERE p.stream = %(stream)s
) AS counting
