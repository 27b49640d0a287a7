-- Commands that began since a time, the latest first, each with how it ended.
SELECT
    b.at AS began,
    e.at AS ended,
    b.command,
    b.arguments,
    b.os_user,
    b.host,
    b.db_role,
    e.outcome,
    e.error,
    e.counts
FROM slate.admin_log AS b
LEFT JOIN slate.admin_log AS e ON b.run = e.run AND e.phase = 'ended'
WHERE b.phase = 'begun' AND b.at >= %(since)s -- noqa: RF02
ORDER BY b.id DESC
LIMIT %(most)s
