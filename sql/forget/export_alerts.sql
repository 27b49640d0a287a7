-- Alerts that name a user or one of their sessions.
SELECT to_jsonb(a)::text AS line
FROM slate.alerts AS a
WHERE
    strpos(a.annotations::text || a.reason, %(user)s) > 0
    OR a.labels ->> 'user' = %(user)s
    OR a.labels ->> 'session' = any(%(sessions)s)
ORDER BY a.id
