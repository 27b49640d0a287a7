-- What was decided about alerts on a user and on his sessions, the latest first.
-- noqa: disable=RF02
WITH own AS MATERIALIZED (
    SELECT a.id
    FROM slate.alerts AS a
    WHERE a.labels @> jsonb_build_object('user', %(user)s::uuid)
    UNION
    SELECT a.id
    FROM public.spark_sessions AS s
    INNER JOIN slate.alerts AS a ON a.labels @> jsonb_build_object('session', s.session_id)
    WHERE s.user_id = %(user)s::uuid
)

SELECT
    a.id,
    a.rule,
    a.fingerprint,
    a.state,
    a.labels,
    a.annotations,
    a.value,
    a.reason,
    a.starts_at,
    a.ends_at,
    a.created_at
FROM (
    SELECT id
    FROM own
    WHERE %(id)s::bigint IS NULL OR id < %(id)s::bigint
    ORDER BY id DESC
    LIMIT %(limit)s
) AS latest
INNER JOIN slate.alerts AS a ON latest.id = a.id
ORDER BY a.id DESC
