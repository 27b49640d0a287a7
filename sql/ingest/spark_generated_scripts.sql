-- Append generated scripts.
INSERT INTO public.spark_generated_scripts (session_id, script_name, script_content, prompt, created_at)
SELECT
    session_id,
    script_name,
    script_content,
    prompt,
    created_at
FROM unnest(
    %(session_id)b::text[], %(script_name)b::text[], %(script_content)b::text[], %(prompt)b::text[],
    %(created_at)b::timestamptz[]
) AS new (session_id, script_name, script_content, prompt, created_at)
