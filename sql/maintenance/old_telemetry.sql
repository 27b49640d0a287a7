-- Delete some of the rows that are older than they are kept.
DELETE FROM public.spark_telemetry
WHERE id IN (
    SELECT id
    FROM public.spark_telemetry
    WHERE ts < %(before)s
    ORDER BY ts
    LIMIT %(most)s
)
