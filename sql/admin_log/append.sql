-- That a command began, or how it ended.
INSERT INTO slate.admin_log (run, phase, command, arguments, os_user, host, outcome, error, counts)
VALUES (
    %(run)s, %(phase)s, %(command)s, %(arguments)s::jsonb, %(os_user)s, %(host)s, %(outcome)s, %(error)s,
    %(counts)s::jsonb
)
