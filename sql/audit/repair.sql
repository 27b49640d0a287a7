-- Make the daily tables what they should be; returns what was wrong.
WITH wrong AS MATERIALIZED (
    SELECT
        rollup,
        day,
        key,
        model,
        counted,
        wanted
    FROM slate.rollup_differences(%(since)s, %(until)s)
),

usage_gone AS (
    DELETE FROM public.spark_usage_daily AS d
    USING wrong AS w
    WHERE w.rollup = 'usage' AND w.wanted IS NULL AND d.day = w.day AND d.session_id = w.key AND d.model = w.model
),

usage_right AS (
    INSERT INTO public.spark_usage_daily (day, session_id, model, tokens_prompt, tokens_completion, cost_estimate)
    SELECT
        day,
        key,
        model,
        wanted[1],
        wanted[2],
        wanted[3]
    FROM wrong
    WHERE rollup = 'usage' AND wanted IS NOT NULL
    ON CONFLICT (day, session_id, model) DO UPDATE SET
        tokens_prompt = excluded.tokens_prompt,
        tokens_completion = excluded.tokens_completion,
        cost_estimate = excluded.cost_estimate
),

errors_gone AS (
    DELETE FROM public.spark_errors_daily AS d
    USING wrong AS w
    WHERE w.rollup = 'errors' AND w.wanted IS NULL AND d.day = w.day AND d.name = w.key
),

errors_right AS (
    INSERT INTO public.spark_errors_daily (day, name, success_count, error_count, error_rate)
    SELECT
        day,
        key,
        wanted[1],
        wanted[2],
        wanted[3]
    FROM wrong
    WHERE rollup = 'errors' AND wanted IS NOT NULL
    ON CONFLICT (day, name) DO UPDATE SET
        success_count = excluded.success_count,
        error_count = excluded.error_count,
        error_rate = excluded.error_rate
),

events_gone AS (
    DELETE FROM public.spark_events_daily AS d
    USING wrong AS w
    WHERE w.rollup = 'events' AND w.wanted IS NULL AND d.day = w.day AND d.type = w.key
),

events_right AS (
    INSERT INTO public.spark_events_daily (day, type, event_count)
    SELECT
        day,
        key,
        wanted[1]
    FROM wrong
    WHERE rollup = 'events' AND wanted IS NOT NULL
    ON CONFLICT (day, type) DO UPDATE SET event_count = excluded.event_count
)

SELECT
    rollup,
    day,
    key,
    model,
    counted,
    wanted
FROM wrong
ORDER BY day, rollup, key, model
