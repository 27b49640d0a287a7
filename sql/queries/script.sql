-- A script with its content.
-- noqa: disable=RF02
SELECT
    g.id,
    g.session_id,
    g.script_name,
    g.prompt,
    octet_length(g.script_content) AS bytes,
    g.created_at,
    g.script_content
FROM public.spark_generated_scripts AS g
LEFT JOIN public.spark_sessions AS s ON g.session_id = s.session_id
WHERE g.id = %(id)s AND (%(user)s::uuid IS NULL OR s.user_id = %(user)s::uuid)
