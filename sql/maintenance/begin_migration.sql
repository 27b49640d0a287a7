-- Wait until no other migration runs, and let the tool keep its records in our schema. All of it ends with the
-- transaction.
SELECT pg_advisory_xact_lock(hashtext('slate.migrate'));
DO $$
BEGIN
    -- IF NOT EXISTS would want the right to create one, also where an administrator has made it for us
    IF to_regnamespace('slate') IS NULL THEN
        CREATE SCHEMA slate;
    END IF;
END
$$;
SET LOCAL search_path TO slate;
-- Whoever wants a table waits behind us while we wait for it.
SET LOCAL lock_timeout TO '2s';
