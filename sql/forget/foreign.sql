-- Those of some sessions that are not this user's alone: another announced them, or where nobody did, is named in them.
SELECT session_id
FROM public.spark_sessions
WHERE session_id = any(%(sessions)s) AND user_id <> %(user)s
UNION
SELECT named.session_id
FROM (
    SELECT
        session_id,
        user_id
    FROM public.spark_events
    WHERE session_id = any(%(sessions)s)
    UNION ALL
    SELECT
        session_id,
        user_id
    FROM public.spark_function_calls
    WHERE session_id = any(%(sessions)s)
    UNION ALL
    SELECT
        session_id,
        user_id
    FROM public.spark_usage
    WHERE session_id = any(%(sessions)s)
) AS named
LEFT JOIN public.spark_sessions AS s ON named.session_id = s.session_id
WHERE named.user_id <> %(user)s AND s.user_id IS NULL
