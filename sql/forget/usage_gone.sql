-- Delete totals of sessions of which no usage is left.
DELETE FROM public.spark_usage_daily AS d
WHERE
    d.session_id = any(%(sessions)s)
    AND d.tokens_prompt = 0
    AND d.tokens_completion = 0
    AND d.cost_estimate = 0
    AND NOT EXISTS (
        SELECT 1
        FROM public.spark_usage AS u
        WHERE
            u.session_id = d.session_id
            AND u.model = d.model
            AND u.ts >= d.day::timestamp AT TIME ZONE 'UTC'
            AND u.ts < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
    )
