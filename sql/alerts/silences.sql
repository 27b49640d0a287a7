-- Silences that last.
SELECT
    id,
    matchers,
    until,
    author,
    comment
FROM slate.alert_silences
WHERE until > now()
ORDER BY id
