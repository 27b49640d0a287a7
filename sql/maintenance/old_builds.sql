-- Delete some of the rows that are older than they are kept.
DELETE FROM public.spark_build_jobs
WHERE id IN (
    SELECT id
    FROM public.spark_build_jobs
    WHERE created_at < %(before)s AND updated_at < %(before)s
    ORDER BY created_at
    LIMIT %(most)s
)
