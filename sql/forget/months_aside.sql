-- Months of spark_events that are no partitions of it: put aside, or on their way out.
SELECT
    n.nspname,
    c.relname
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
LEFT JOIN pg_inherits AS i ON c.oid = i.inhrelid
WHERE
    n.nspname IN ('public', 'slate') AND c.relkind = 'r' AND c.relname ~ '^spark_events_[0-9]{4}_[0-9]{2}$'
    AND (i.inhrelid IS NULL OR i.inhdetachpending)
ORDER BY c.relname
