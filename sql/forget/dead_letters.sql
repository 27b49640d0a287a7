-- Delete dead letters, and take them from the windows.
WITH gone AS (
    DELETE FROM slate.dead_letters
    WHERE id = any(%(ids)s)
    RETURNING stored_at, code
),

windows AS (
    UPDATE slate.windows AS w
    SET count = w.count - g.n, closed_at = NULL, updated_at = now()
    FROM (
        SELECT
            to_timestamp(floor(extract(EPOCH FROM gone.stored_at) / l.seconds) * l.seconds) AS start,
            l.seconds,
            gone.code,
            count(*) AS n
        FROM gone
        CROSS JOIN (VALUES (60), (300)) AS l (seconds)
        GROUP BY 1, 2, 3 -- noqa: AM06
    ) AS g
    WHERE
        w.start = g.start AND w.seconds = g.seconds AND w.signal = 'dead_letters' AND w.key = g.code
        AND w.status = ''
)

SELECT count(*) AS n
FROM gone
