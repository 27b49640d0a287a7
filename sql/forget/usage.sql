-- Delete the user's usage between two ids, and take it from totals and windows; how much, in which sessions.
WITH gone AS (
    DELETE FROM public.spark_usage
    WHERE
        id > %(after)s AND id <= %(upto)s
        AND (user_id = %(user)s OR session_id = any(%(sessions)s))
    RETURNING session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate, user_id
),

daily AS (
    UPDATE public.spark_usage_daily AS d
    SET
        tokens_prompt = d.tokens_prompt - g.prompt,
        tokens_completion = d.tokens_completion - g.completion,
        cost_estimate = d.cost_estimate - g.cost
    FROM (
        SELECT
            (ts AT TIME ZONE 'UTC')::date AS day,
            session_id,
            model,
            sum(tokens_prompt) AS prompt,
            sum(tokens_completion) AS completion,
            sum(cost_estimate) AS cost
        FROM gone
        GROUP BY 1, 2, 3 -- noqa: AM06
    ) AS g
    WHERE d.day = g.day AND d.session_id = g.session_id AND d.model = g.model
),

windows AS (
    UPDATE slate.windows AS w
    SET
        count = w.count - g.n,
        tokens_prompt = w.tokens_prompt - g.prompt,
        tokens_completion = w.tokens_completion - g.completion,
        cost = w.cost - g.cost,
        closed_at = NULL,
        updated_at = now()
    FROM (
        SELECT
            to_timestamp(floor(extract(EPOCH FROM gone.ts) / l.seconds) * l.seconds) AS start,
            l.seconds,
            s.signal,
            CASE s.signal WHEN 'usage_by_model' THEN gone.model ELSE coalesce(gone.user_id::text, '') END AS key,
            count(*) AS n,
            sum(gone.tokens_prompt) AS prompt,
            sum(gone.tokens_completion) AS completion,
            sum(gone.cost_estimate) AS cost
        FROM gone
        CROSS JOIN (VALUES (60), (300)) AS l (seconds)
        CROSS JOIN (VALUES ('usage_by_model'), ('usage_by_user')) AS s (signal)
        GROUP BY 1, 2, 3, 4 -- noqa: AM06
    ) AS g
    WHERE w.start = g.start AND w.seconds = g.seconds AND w.signal = g.signal AND w.key = g.key AND w.status = ''
)

SELECT
    count(*) AS n,
    array_agg(DISTINCT session_id) AS sessions
FROM gone
