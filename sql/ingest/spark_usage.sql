-- Append token usage. Costs are rounded to the column's six places.
INSERT INTO public.spark_usage (session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate, user_id)
SELECT
    session_id,
    ts,
    model,
    tokens_prompt,
    tokens_completion,
    cost_estimate::numeric,
    user_id
FROM unnest(
    %(session_id)b::text[], %(ts)b::timestamptz[], %(model)b::text[], %(tokens_prompt)b::integer[],
    %(tokens_completion)b::integer[], %(cost_estimate)b::text[], %(user_id)b::uuid[]
) AS new (session_id, ts, model, tokens_prompt, tokens_completion, cost_estimate, user_id)
