-- Figures of a day (UTC) and of the minutes before a time, of a user's sessions.
-- noqa: disable=RF02
SELECT
    usage.tokens_prompt,
    usage.tokens_completion,
    usage.cost,
    outcomes.calls,
    outcomes.errors,
    CASE WHEN outcomes.calls > 0 THEN round(outcomes.errors / outcomes.calls::numeric, 6) END AS error_rate,
    outcomes.calls_per_minute,
    outcomes.p50_ms,
    outcomes.p95_ms,
    outcomes.p99_ms,
    (
        SELECT count(*)
        FROM public.spark_sessions
        WHERE user_id = %(user)s AND ended_at IS NULL AND started_at IS NOT NULL
    ) AS active_sessions,
    (
        SELECT count(*)
        FROM slate.alert_states
        WHERE
            status = 'firing'
            AND (
                labels ->> 'user' = %(user)s::uuid::text
                OR labels ->> 'session' IN (
                    SELECT s.session_id FROM public.spark_sessions AS s
                    WHERE s.user_id = %(user)s
                )
            )
    ) AS alerts,
    NULL::bigint AS dead_letters,
    (
        SELECT max(updated_at) FROM slate.progress
        WHERE stream = %(stream)s
    ) AS stored_at,
    counting.behind
FROM (
    SELECT
        coalesce(sum(d.tokens_prompt), 0)::bigint AS tokens_prompt,
        coalesce(sum(d.tokens_completion), 0)::bigint AS tokens_completion,
        coalesce(sum(d.cost_estimate), 0) AS cost
    FROM public.spark_sessions AS s
    INNER JOIN public.spark_usage_daily AS d ON s.session_id = d.session_id
    WHERE s.user_id = %(user)s AND d.day = (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
) AS usage
CROSS JOIN (
    SELECT
        count(*) FILTER (WHERE today) AS calls,
        count(*) FILTER (WHERE today AND status = 'failed') AS errors,
        round(
            count(*) FILTER (WHERE minute >= this_minute - interval '5 minutes' AND minute < this_minute) / 5.0, 1
        ) AS calls_per_minute,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms)
        FILTER (WHERE last_hour)::double precision AS p50_ms,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms)
        FILTER (WHERE last_hour)::double precision AS p95_ms,
        percentile_disc(0.99) WITHIN GROUP (ORDER BY duration_ms)
        FILTER (WHERE last_hour)::double precision AS p99_ms
    FROM (
        SELECT
            c.status,
            c.duration_ms,
            date_trunc('minute', c.ts) AS minute,
            date_trunc('minute', %(now)s::timestamptz) AS this_minute,
            (c.ts AT TIME ZONE 'UTC')::date = (%(now)s::timestamptz AT TIME ZONE 'UTC')::date AS today,
            date_trunc('minute', c.ts) > %(now)s::timestamptz - interval '1 hour'
            AND date_trunc('minute', c.ts) <= %(now)s::timestamptz AS last_hour
        FROM public.spark_sessions AS s
        INNER JOIN public.spark_function_calls AS c ON s.session_id = c.session_id
        WHERE
            s.user_id = %(user)s
            AND c.ts >= least(
                date_trunc('day', %(now)s::timestamptz, 'UTC'), %(now)s::timestamptz - interval '1 hour'
            ) - interval '1 minute'
    ) AS own
) AS outcomes
CROSS JOIN (
    SELECT coalesce(sum(p.read - coalesce(r.read, 0)), 0)::bigint AS behind
    FROM slate.progress AS p
    LEFT JOIN slate.rollup_progress AS r ON p.stream = r.stream AND p.partition = r.partition
    WHERE p.stream = %(stream)s
) AS counting
