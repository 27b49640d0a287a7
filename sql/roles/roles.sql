-- The roles of SLATE, by psql as a superuser in the database of SLATE; again after an upgrade, which changes nothing
-- that is right already. It gives no passwords: `\password slate_owner` makes them without a trace in the log. What
-- each role may do with tables is in `grants.sql`, which `slate migrate` applies.
--
--     slate_owner    owns the tables: `slate migrate`, `maintain`, `audit --repair`
--     slate_writer   the workers, `slate dead-letters`, `slate alerts`
--     slate_reader   the HTTP service
--     slate_pooler   PgBouncer, which asks for the secrets of these and of grafana
--     slate_replica  replicas and backups
--
-- Limits of connections: 20 are a pool of PgBouncer, and what comes past it. 20 + 60 + 40 + 5 of these, and 20 of
-- grafana, are below max_connections (150); replicas have max_wal_senders of their own.
DO $$
DECLARE
    the_role text;
    most integer;
BEGIN
    FOR the_role, most IN VALUES
        ('slate_owner', 20), ('slate_writer', 60), ('slate_reader', 40), ('slate_pooler', 5), ('slate_replica', 5)
    LOOP
        IF to_regrole(the_role) IS NULL THEN
            EXECUTE format('CREATE ROLE %I', the_role);
        END IF;
        EXECUTE format(
            'ALTER ROLE %I LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS %s CONNECTION LIMIT %s',
            the_role, CASE the_role WHEN 'slate_replica' THEN 'REPLICATION' ELSE 'NOREPLICATION' END, most
        );
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM public', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO slate_owner, slate_writer, slate_reader, slate_pooler', current_database()
    );
END
$$;

-- An index on a large table takes its time, so statements of the owner may run as long as slate-maintain.service. While
-- it waits for a lock others wait behind it: it gives up, and is run again. `slate maintain` holds its lock in a
-- transaction that is idle until all is done.
ALTER ROLE slate_owner SET statement_timeout = '2h';
ALTER ROLE slate_owner SET lock_timeout = '1min';
ALTER ROLE slate_owner SET idle_in_transaction_session_timeout = '2h';
-- Batches bring their own limit (SLATE_DB_STATEMENT_TIMEOUT); the longest statement counts all days anew. Transactions
-- are idle while a receiver of alerts is told, for 10 s at most.
ALTER ROLE slate_writer SET statement_timeout = '30min';
ALTER ROLE slate_writer SET idle_in_transaction_session_timeout = '1min';
-- Reads of people bring a limit of 5 s; this is for whatever does not.
ALTER ROLE slate_reader SET default_transaction_read_only = on;
ALTER ROLE slate_reader SET statement_timeout = '10s';
ALTER ROLE slate_reader SET lock_timeout = '2s';
ALTER ROLE slate_reader SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE slate_pooler SET default_transaction_read_only = on;
ALTER ROLE slate_pooler SET statement_timeout = '5s';

REVOKE ALL ON SCHEMA public FROM public;
CREATE SCHEMA IF NOT EXISTS slate AUTHORIZATION slate_owner;
GRANT USAGE, CREATE ON SCHEMA public TO slate_owner;
GRANT USAGE ON SCHEMA public, slate TO slate_writer, slate_reader;

-- What a migration makes can be used at once, also where its author forgot `grants.sql`. Nothing is deleted by default.
-- A month of events is a new table, too: what workers may not read there they must not be given here.
ALTER DEFAULT PRIVILEGES FOR ROLE slate_owner IN SCHEMA public GRANT INSERT ON TABLES TO slate_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE slate_owner IN SCHEMA slate GRANT SELECT, INSERT, UPDATE ON TABLES TO slate_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE slate_owner IN SCHEMA public, slate GRANT USAGE ON SEQUENCES TO slate_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE slate_owner IN SCHEMA public, slate GRANT SELECT ON TABLES TO slate_reader;

-- What PgBouncer asks: it need not be a superuser, and learns of no other role.
CREATE SCHEMA IF NOT EXISTS pooler;
CREATE OR REPLACE FUNCTION pooler.secret(the_role text, OUT name text, OUT secret text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT
    rolname,
    CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END
FROM pg_authid
WHERE
    rolname = the_role
    AND rolname IN ('slate_owner', 'slate_writer', 'slate_reader', 'grafana')
    AND rolcanlogin
    AND NOT rolsuper
$$;
REVOKE ALL ON FUNCTION pooler.secret(text) FROM public;
GRANT USAGE ON SCHEMA pooler TO slate_pooler;
GRANT EXECUTE ON FUNCTION pooler.secret(text) TO slate_pooler;
