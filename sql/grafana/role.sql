-- The role of Grafana: it reads what dashboards show, and no payloads, prompts, scripts, arguments or errors of users.
-- Run it once as the owner of the tables who may create roles, and again after an upgrade; then set a password:
--
--     psql -f sql/grafana/role.sql
--     psql -c '\password grafana'
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'grafana') THEN
        CREATE ROLE grafana LOGIN CONNECTION LIMIT 20;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO grafana', current_database());
END
$$;

ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '5s';
ALTER ROLE grafana SET lock_timeout = '2s';
ALTER ROLE grafana SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE grafana SET timezone = 'UTC';

GRANT USAGE ON SCHEMA public, slate TO grafana;
GRANT SELECT ON public.spark_usage_daily, public.spark_errors_daily, public.spark_events_daily TO grafana;
GRANT SELECT (session_id, model, mode, started_at, ended_at) ON public.spark_sessions TO grafana;
GRANT SELECT (created_at) ON public.spark_generated_scripts TO grafana;
GRANT SELECT (engine, ts, status) ON public.spark_previews TO grafana;
GRANT SELECT (build_target, status, created_at, updated_at) ON public.spark_build_jobs TO grafana;
GRANT SELECT ON slate.windows, slate.ledger, slate.rollup_progress, slate.gaps TO grafana;
GRANT SELECT ON slate.alerts, slate.alert_states, slate.alert_deliveries, slate.alert_silences TO grafana;
GRANT SELECT (id, received_at, stage, code, path, subject, partition, seq, replayed_at)
ON slate.dead_letters TO grafana;
