-- Months of spark_events before a day that are still in public: their tables, and whether they are partitions of it
-- (`pending`: a detach was begun and not finished).
SELECT
    c.relname AS name,
    to_date(right(c.relname, 7), 'YYYY_MM') AS month,
    CASE
        WHEN i.inhrelid IS NULL THEN 'detached'
        WHEN i.inhdetachpending THEN 'pending'
        ELSE 'attached'
    END AS state
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON c.oid = i.inhrelid AND i.inhparent = 'public.spark_events'::regclass
WHERE
    c.relnamespace = 'public'::regnamespace
    AND c.relkind = 'r'
    AND c.relname ~ '^spark_events_[0-9]{4}_[0-9]{2}$'
    AND to_date(right(c.relname, 7), 'YYYY_MM') < %(before)s -- noqa: RF02
ORDER BY c.relname
