-- Tokens and cost of days (UTC), by day, model and user, or by some of them; the dearest first within a day.
-- noqa: disable=RF02,AM06
SELECT
    CASE WHEN %(by_day)s THEN d.day END AS day,
    CASE WHEN %(by_model)s THEN d.model END AS model,
    CASE WHEN %(by_user)s THEN s.user_id END AS user_id,
    sum(d.tokens_prompt)::bigint AS tokens_prompt,
    sum(d.tokens_completion)::bigint AS tokens_completion,
    sum(d.cost_estimate) AS cost
FROM public.spark_usage_daily AS d
LEFT JOIN public.spark_sessions AS s ON d.session_id = s.session_id
WHERE
    d.day >= %(since)s AND d.day < %(until)s
    AND (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
GROUP BY 1, 2, 3
ORDER BY 1 ASC, 6 DESC, 2 ASC, 3 ASC
LIMIT %(most)s
