-- depends: 0006-usage-by-user
-- What people look at: sessions of a user, what happened in a session, calls of a function, what failed.

CREATE INDEX spark_sessions_started ON public.spark_sessions (started_at DESC, id DESC) WHERE started_at IS NOT NULL;
CREATE INDEX spark_sessions_user_started ON public.spark_sessions (user_id, started_at DESC, id DESC)
WHERE user_id IS NOT NULL;
CREATE INDEX spark_events_session_ts ON public.spark_events (session_id, ts);
CREATE INDEX spark_usage_session_ts ON public.spark_usage (session_id, ts);
CREATE INDEX spark_previews_session_ts ON public.spark_previews (session_id, ts);
CREATE INDEX spark_generated_scripts_session_created_at ON public.spark_generated_scripts (session_id, created_at);
CREATE INDEX spark_build_jobs_session_created_at ON public.spark_build_jobs (session_id, created_at);
CREATE INDEX spark_function_calls_name_status_ts ON public.spark_function_calls (name, status, ts, id);
CREATE INDEX spark_function_calls_failed_ts ON public.spark_function_calls (ts) WHERE status = 'failed';
CREATE INDEX spark_usage_daily_session_day ON public.spark_usage_daily (session_id, day);
CREATE INDEX alerts_labels ON slate.alerts USING gin (labels jsonb_path_ops);
CREATE INDEX dead_letters_waiting ON slate.dead_letters (id) INCLUDE (stage, code) WHERE replayed_at IS NULL;

-- Without a search path of its own, so that it becomes a part of the statement that asks, in FROM.
CREATE FUNCTION slate.quantiles(bins jsonb) RETURNS TABLE (
    p50 double precision, p95 double precision, p99 double precision
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT
    pg_catalog.min(value) FILTER (WHERE up_to > 0.5 * (n - 1)),
    pg_catalog.min(value) FILTER (WHERE up_to > 0.95 * (n - 1)),
    pg_catalog.min(value) FILTER (WHERE up_to > 0.99 * (n - 1))
FROM (
    SELECT
        CASE
            WHEN key::integer < 0 THEN 0
            ELSE pg_catalog.power(1.01::double precision / 0.99, key::integer) * 2 / (1 + 1.01::double precision / 0.99)
        END AS value,
        pg_catalog.sum(value::bigint) OVER (ORDER BY key::integer) AS up_to,
        pg_catalog.sum(value::bigint) OVER () AS n
    FROM pg_catalog.jsonb_each_text(bins)
) AS cumulative
$$;

COMMENT ON FUNCTION slate.quantiles(jsonb) IS
'Three quantiles of a histogram at once, each as slate.quantile gives it; NULL where it is empty';
