-- Tokens of a user since the beginning of a month. Usage that does not tell its user is nobody's.
SELECT coalesce(sum(tokens_prompt::bigint + tokens_completion), 0)::bigint
FROM spark_usage
WHERE user_id = %(user)s::uuid AND ts >= %(since)s;
