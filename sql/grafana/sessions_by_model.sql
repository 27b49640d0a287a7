-- Sessions that are open by model and mode.
SELECT
    model,
    mode,
    count(*) AS sessions,
    max(started_at) AS latest
FROM public.spark_sessions
WHERE ended_at IS NULL AND started_at >= now() - interval '1 day'
GROUP BY model, mode
ORDER BY sessions DESC, model ASC, mode ASC
