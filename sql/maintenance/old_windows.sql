-- Delete some of the windows that are older than they are kept; an open one is old only when its time is long over.
DELETE FROM slate.windows
WHERE (start, seconds, signal, key, status) IN (
    SELECT
        start,
        seconds,
        signal,
        key,
        status
    FROM slate.windows
    WHERE start < %(before)s
    ORDER BY start
    LIMIT %(most)s
)
