-- A session, and what it comes to.
-- noqa: disable=RF02
SELECT
    s.id,
    s.session_id,
    s.user_id,
    s.model,
    s.mode,
    s.started_at,
    s.ended_at,
    s.meta,
    used.tokens_prompt,
    used.tokens_completion,
    used.cost,
    called.calls,
    called.errors,
    (
        SELECT count(*) FROM public.spark_generated_scripts AS g
        WHERE s.session_id = g.session_id
    ) AS scripts,
    (
        SELECT count(*) FROM public.spark_previews AS p
        WHERE s.session_id = p.session_id
    ) AS previews,
    (
        SELECT count(*) FROM public.spark_build_jobs AS b
        WHERE s.session_id = b.session_id
    ) AS builds,
    (
        SELECT count(*) FROM public.spark_events AS e
        WHERE s.session_id = e.session_id
    ) AS events,
    (
        SELECT max(b.updated_at) FROM public.spark_build_jobs AS b
        WHERE s.session_id = b.session_id
    ) AS built_at
FROM public.spark_sessions AS s
CROSS JOIN
    LATERAL (
        SELECT
            coalesce(sum(u.tokens_prompt), 0)::bigint AS tokens_prompt,
            coalesce(sum(u.tokens_completion), 0)::bigint AS tokens_completion,
            coalesce(sum(u.cost_estimate), 0) AS cost
        FROM public.spark_usage AS u
        WHERE s.session_id = u.session_id
    ) AS used
CROSS JOIN
    LATERAL (
        SELECT
            count(*) AS calls,
            count(*) FILTER (WHERE c.status = 'failed') AS errors
        FROM public.spark_function_calls AS c
        WHERE s.session_id = c.session_id
    ) AS called
WHERE s.session_id = %(session)s AND (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
