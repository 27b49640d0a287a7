-- Add to the outcomes of calls of days; a call that was changed takes from what it was.
INSERT INTO public.spark_errors_daily AS old (day, name, success_count, error_count, error_rate)
SELECT
    day,
    name,
    successes,
    errors,
    coalesce(round(errors::numeric / nullif(successes + errors, 0), 3), 0)
FROM
    unnest(%(day)b::date[], %(name)b::text[], %(successes)b::bigint[], %(errors)b::bigint[])
        AS new (day, name, successes, errors)
ORDER BY day, name
ON CONFLICT (day, name) DO UPDATE SET
    success_count = old.success_count + excluded.success_count,
    error_count = old.error_count + excluded.error_count,
    error_rate = coalesce(
        round(
            (old.error_count + excluded.error_count)::numeric
            / nullif(old.success_count + excluded.success_count + old.error_count + excluded.error_count, 0),
            3
        ),
        0
    )
