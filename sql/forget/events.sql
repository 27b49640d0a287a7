-- Delete the user's events between two ids, and take them from the totals and from the windows; how many. Of sessions
-- that are another's, what came in the same message goes with them: its script, its preview.
WITH gone AS (
    DELETE FROM public.spark_events
    WHERE
        id > %(after)s AND id <= %(upto)s
        AND (user_id = %(user)s OR session_id = any(%(sessions)s))
    RETURNING session_id, type, ts, payload
),

scripts AS (
    DELETE FROM public.spark_generated_scripts AS s
    USING gone AS g
    WHERE
        s.session_id = g.session_id
        AND s.created_at = g.ts
        AND s.script_name = g.payload ->> 'scriptName'
        AND s.script_content = g.payload ->> 'scriptContent'
),

previews AS (
    DELETE FROM public.spark_previews AS p
    USING gone AS g
    WHERE
        p.session_id = g.session_id
        AND p.ts = g.ts
        AND g.type LIKE 'preview%%'
        AND p.frame_ref IS NOT DISTINCT FROM (g.payload ->> 'frameRef')
),

daily AS (
    UPDATE public.spark_events_daily AS d
    SET event_count = d.event_count - g.n
    FROM (
        SELECT
            (ts AT TIME ZONE 'UTC')::date AS day,
            type,
            count(*) AS n
        FROM gone
        GROUP BY 1, 2 -- noqa: AM06
    ) AS g
    WHERE d.day = g.day AND d.type = g.type
),

windows AS (
    UPDATE slate.windows AS w
    SET count = w.count - g.n, closed_at = NULL, updated_at = now()
    FROM (
        SELECT
            to_timestamp(floor(extract(EPOCH FROM gone.ts) / l.seconds) * l.seconds) AS start,
            l.seconds,
            gone.type,
            count(*) AS n
        FROM gone
        CROSS JOIN (VALUES (60), (300)) AS l (seconds)
        GROUP BY 1, 2, 3 -- noqa: AM06
    ) AS g
    WHERE w.start = g.start AND w.seconds = g.seconds AND w.signal = 'events' AND w.key = g.type AND w.status = ''
)

SELECT count(*) AS n
FROM gone
