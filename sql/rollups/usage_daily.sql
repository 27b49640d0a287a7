-- Add to the tokens and costs of days. Costs come in millionths of a dollar.
INSERT INTO public.spark_usage_daily AS old (
    day, session_id, model, tokens_prompt, tokens_completion, cost_estimate
)
SELECT
    day,
    session_id,
    model,
    tokens_prompt,
    tokens_completion,
    cost * 0.000001
FROM
    unnest(
        %(day)b::date[], %(session_id)b::text[], %(model)b::text[],
        %(tokens_prompt)b::bigint[], %(tokens_completion)b::bigint[], %(cost)b::bigint[]
    ) AS new (day, session_id, model, tokens_prompt, tokens_completion, cost)
ORDER BY day, session_id, model
ON CONFLICT (day, session_id, model) DO UPDATE SET
    tokens_prompt = old.tokens_prompt + excluded.tokens_prompt,
    tokens_completion = old.tokens_completion + excluded.tokens_completion,
    cost_estimate = old.cost_estimate + excluded.cost_estimate
