-- Delete what is kept of a user and of their sessions beside the tables of the contract. Whoever evaluates
-- alerts begins anew from what is left; an episode that names the user is over without being told.
WITH signals AS (
    DELETE FROM slate.alert_signals
    WHERE (signal = 'usage' AND detail = %(user)s) OR session_id = any(%(sessions)s)
    RETURNING 1
),

budgets AS (
    DELETE FROM slate.alert_budgets
    WHERE key <> '' AND key::jsonb ?| (%(sessions)s::text[] || %(user)s::text)
    RETURNING 1
),

states AS (
    DELETE FROM slate.alert_states
    WHERE labels ->> 'user' = %(user)s OR labels ->> 'session' = any(%(sessions)s)
    RETURNING 1
),

silences AS (
    DELETE FROM slate.alert_silences
    WHERE
        strpos(comment, %(user)s) > 0
        OR matchers ->> 'user' = %(user)s
        OR matchers ->> 'session' = any(%(sessions)s)
    RETURNING 1
),

alerts AS (
    DELETE FROM slate.alerts
    WHERE
        strpos(annotations::text || reason, %(user)s) > 0
        OR labels ->> 'user' = %(user)s
        OR labels ->> 'session' = any(%(sessions)s)
    RETURNING 1
),

windows AS (
    DELETE FROM slate.windows
    WHERE
        (signal = 'usage_by_user' AND key = %(user)s)
        OR (count = 0 AND revision = 0 AND bins = '{}')
    RETURNING signal
),

evaluator AS (
    UPDATE slate.alert_progress
    SET owner = NULL
)

SELECT
    (SELECT count(*) FROM signals) AS signals,
    (SELECT count(*) FROM budgets) AS budgets,
    (SELECT count(*) FROM states) AS states,
    (SELECT count(*) FROM silences) AS silences,
    (SELECT count(*) FROM alerts) AS alerts,
    (SELECT count(*) FILTER (WHERE signal = 'usage_by_user') FROM windows) AS windows
