-- Today's totals (UTC), and how many stored messages are in none yet.
SELECT
    usage.tokens_prompt,
    usage.tokens_completion,
    usage.cost,
    outcomes.calls,
    outcomes.failed,
    counting.behind
FROM (
    SELECT
        coalesce(sum(tokens_prompt), 0)::bigint AS tokens_prompt,
        coalesce(sum(tokens_completion), 0)::bigint AS tokens_completion,
        coalesce(sum(cost_estimate), 0) AS cost
    FROM public.spark_usage_daily
    WHERE day = (now() AT TIME ZONE 'UTC')::date
) AS usage
CROSS JOIN (
    SELECT
        coalesce(sum(success_count + error_count), 0)::bigint AS calls,
        coalesce(sum(error_count), 0)::bigint AS failed
    FROM public.spark_errors_daily
    WHERE day = (now() AT TIME ZONE 'UTC')::date
) AS outcomes
CROSS JOIN (
    SELECT coalesce(sum(p.read - coalesce(r.read, 0)), 0)::bigint AS behind
    FROM slate.progress AS p
    LEFT JOIN slate.rollup_progress AS r ON p.stream = r.stream AND p.partition = r.partition
    WHERE p.stream = %(stream)s -- noqa: RF02
) AS counting
