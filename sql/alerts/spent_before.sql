-- What the tables say was spent from a time to another, by the labels that a budget needs. Costs in millionths.
SELECT
    CASE WHEN 'model' = any(%(labels)s::text[]) THEN model ELSE '' END AS model,
    CASE WHEN 'user' = any(%(labels)s::text[]) THEN coalesce(user_id::text, '') ELSE '' END AS user_name,
    CASE WHEN 'session' = any(%(labels)s::text[]) THEN session_id ELSE '' END AS session_id,
    count(*) AS samples,
    sum(tokens_prompt::bigint + tokens_completion) AS tokens,
    (sum(cost_estimate) * 1000000)::bigint AS cost
FROM public.spark_usage
WHERE ts >= to_timestamp(%(since_us)s::bigint / 1000000.0) AND ts < to_timestamp(%(until_us)s::bigint / 1000000.0)
GROUP BY 1, 2, 3
