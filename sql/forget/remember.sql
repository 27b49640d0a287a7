-- Sessions that are being forgotten.
INSERT INTO slate.forgetting (user_id, session_id)
SELECT
    %(user)s,
    session_id
FROM unnest(%(sessions)s::text[]) AS new (session_id)
ON CONFLICT (user_id, session_id) DO NOTHING
