-- Sessions of some that have not ended and had an event in the last minutes.
SELECT DISTINCT e.session_id
FROM public.spark_events AS e
LEFT JOIN public.spark_sessions AS s ON e.session_id = s.session_id
WHERE
    e.session_id = any(%(sessions)s) -- noqa: RF02
    AND e.ts > now() - interval '5 minutes'
    AND s.ended_at IS NULL
UNION
SELECT session_id
FROM public.spark_sessions
WHERE session_id = any(%(sessions)s) AND ended_at IS NULL AND connected_at > now() - interval '5 minutes'
