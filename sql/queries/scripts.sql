-- Scripts without their content of all sessions, the latest first.
SELECT
    id,
    session_id,
    script_name,
    prompt,
    octet_length(script_content) AS bytes,
    created_at
FROM public.spark_generated_scripts
WHERE
    (%(ts)s::timestamptz IS NULL OR (created_at, id) < (%(ts)s::timestamptz, %(id)s::bigint))
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s
