-- Silences that are in force.
SELECT
    id,
    matchers::text AS matchers,
    until,
    author,
    comment
FROM slate.alert_silences
WHERE until > now()
ORDER BY until
