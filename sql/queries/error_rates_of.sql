-- Outcomes of calls of a user's sessions by day (UTC) and function.
-- noqa: disable=RF02
SELECT
    day,
    name,
    success_count,
    error_count,
    round(error_count::numeric / (success_count + error_count), 3) AS error_rate
FROM (
    SELECT
        (c.ts AT TIME ZONE 'UTC')::date AS day,
        c.name,
        count(*) FILTER (WHERE c.status = 'success') AS success_count,
        count(*) FILTER (WHERE c.status = 'failed') AS error_count
    FROM public.spark_sessions AS s
    INNER JOIN public.spark_function_calls AS c ON s.session_id = c.session_id
    WHERE
        s.user_id = %(user)s
        AND c.ts >= %(since)s::date::timestamp AT TIME ZONE 'UTC'
        AND c.ts < %(until)s::date::timestamp AT TIME ZONE 'UTC'
    GROUP BY (c.ts AT TIME ZONE 'UTC')::date, c.name
) AS outcomes
ORDER BY day, name
LIMIT %(most)s
