-- Rows of the tables that ingest writes.
SELECT
    (SELECT count(*) FROM public.spark_sessions) AS spark_sessions,
    (SELECT count(*) FROM public.spark_events) AS spark_events,
    (SELECT count(*) FROM public.spark_function_calls) AS spark_function_calls,
    (SELECT count(*) FROM public.spark_telemetry) AS spark_telemetry,
    (SELECT count(*) FROM public.spark_usage) AS spark_usage,
    (SELECT count(*) FROM public.spark_previews) AS spark_previews,
    (SELECT count(*) FROM public.spark_generated_scripts) AS spark_generated_scripts,
    (SELECT count(*) FROM public.spark_build_jobs) AS spark_build_jobs
