-- depends: 0007-reads
-- Duties to the people whose data it is: who ran which command, and what is being forgotten.

CREATE TABLE slate.admin_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run uuid NOT NULL,
    phase text NOT NULL CHECK (phase IN ('begun', 'ended')),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    command text NOT NULL,
    arguments jsonb NOT NULL,
    os_user text NOT NULL,
    host text NOT NULL,
    db_role text NOT NULL DEFAULT session_user,
    outcome text CHECK (outcome IN ('done', 'failed', 'interrupted')),
    error text,
    counts jsonb,
    UNIQUE (run, phase),
    CHECK ((phase = 'ended') = (outcome IS NOT NULL))
);

-- Time and role are the server's word, not the client's.
CREATE FUNCTION slate.stamp_admin_log() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    NEW.at := clock_timestamp();
    NEW.db_role := session_user;
    RETURN NEW;
END
$$;
CREATE TRIGGER admin_log_stamp BEFORE INSERT ON slate.admin_log
FOR EACH ROW EXECUTE FUNCTION slate.stamp_admin_log();

CREATE FUNCTION slate.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER admin_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON slate.admin_log
FOR EACH STATEMENT EXECUTE FUNCTION slate.refuse_change();

CREATE TABLE slate.forgetting (
    user_id uuid NOT NULL,
    session_id text NOT NULL,
    PRIMARY KEY (user_id, session_id)
);

COMMENT ON TABLE slate.admin_log IS
'Administrative commands, two rows each: that it began, and how it ended. Rows are only ever added';
COMMENT ON COLUMN slate.admin_log.id IS 'Order of the rows';
COMMENT ON COLUMN slate.admin_log.run IS 'One run of a command';
COMMENT ON COLUMN slate.admin_log.phase IS 'begun or ended; a run without the second was killed, or is under way';
COMMENT ON COLUMN slate.admin_log.at IS 'When the row was written, by the clock of the server';
COMMENT ON COLUMN slate.admin_log.command IS 'The command, without slate in front';
COMMENT ON COLUMN slate.admin_log.arguments IS 'Its arguments; ids of users and sessions as SHA-256, no secrets';
COMMENT ON COLUMN slate.admin_log.os_user IS 'User of the operating system';
COMMENT ON COLUMN slate.admin_log.host IS 'Machine on which it ran';
COMMENT ON COLUMN slate.admin_log.db_role IS 'Role that the server knows it by';
COMMENT ON COLUMN slate.admin_log.outcome IS 'done, failed or interrupted (Ctrl-C); NULL for the beginning';
COMMENT ON COLUMN slate.admin_log.error IS 'Kind of error, where it failed';
COMMENT ON COLUMN slate.admin_log.counts IS 'What it came to, in numbers';
COMMENT ON TABLE slate.forgetting IS
'Sessions of users who are being forgotten: what a killed run must know to go on. Empty when none is under way';
COMMENT ON COLUMN slate.forgetting.user_id IS 'Whose they are';
COMMENT ON COLUMN slate.forgetting.session_id IS 'A session, all of which is theirs';
COMMENT ON FUNCTION slate.stamp_admin_log() IS 'Time and role of a row of slate.admin_log, whatever the client says';
COMMENT ON FUNCTION slate.refuse_change() IS 'Refuses to change or delete rows';
