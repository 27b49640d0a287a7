-- Delete the user's calls between two ids, and take them from the totals and from the windows; how many.
WITH gone AS (
    DELETE FROM public.spark_function_calls
    WHERE
        id > %(after)s AND id <= %(upto)s
        AND (user_id = %(user)s OR session_id = any(%(sessions)s))
    RETURNING ts, name, status, slate.bin(duration_ms) AS bin
),

daily AS (
    UPDATE public.spark_errors_daily AS d
    SET
        success_count = d.success_count - g.successes,
        error_count = d.error_count - g.errors,
        error_rate = coalesce(
            round(
                (d.error_count - g.errors)::numeric
                / nullif(d.success_count - g.successes + d.error_count - g.errors, 0),
                3
            ),
            0
        )
    FROM (
        SELECT
            (ts AT TIME ZONE 'UTC')::date AS day,
            name,
            count(*) FILTER (WHERE status = 'success') AS successes,
            count(*) FILTER (WHERE status = 'failed') AS errors
        FROM gone
        GROUP BY 1, 2 -- noqa: AM06
    ) AS g
    WHERE d.day = g.day AND d.name = g.name
),

windows AS (
    UPDATE slate.windows AS w
    SET
        count = w.count - g.n,
        bins = slate.add_bins(w.bins, g.bins),
        closed_at = NULL,
        updated_at = now()
    FROM (
        SELECT
            start,
            seconds,
            name,
            status,
            sum(n) AS n,
            coalesce(jsonb_object_agg(bin, -n) FILTER (WHERE bin IS NOT NULL), '{}') AS bins
        FROM (
            SELECT
                to_timestamp(floor(extract(EPOCH FROM gone.ts) / l.seconds) * l.seconds) AS start,
                l.seconds,
                gone.name,
                gone.status,
                gone.bin,
                count(*) AS n
            FROM gone
            CROSS JOIN (VALUES (60), (300)) AS l (seconds)
            GROUP BY 1, 2, 3, 4, 5 -- noqa: AM06
        ) AS by_bin
        GROUP BY start, seconds, name, status -- noqa: AM06
    ) AS g
    WHERE w.start = g.start AND w.seconds = g.seconds AND w.signal = 'calls' AND w.key = g.name AND w.status = g.status
)

SELECT count(*) AS n
FROM gone
