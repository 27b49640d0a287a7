-- Delete some of the rows that are older than they are kept.
DELETE FROM public.spark_generated_scripts
WHERE id IN (
    SELECT id
    FROM public.spark_generated_scripts
    WHERE created_at < %(before)s
    ORDER BY created_at
    LIMIT %(most)s
)
