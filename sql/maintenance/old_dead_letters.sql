-- Delete some of the dead letters that are older than they are kept.
DELETE FROM slate.dead_letters
WHERE id IN (
    SELECT id
    FROM slate.dead_letters
    WHERE received_at < %(before)s
    ORDER BY received_at
    LIMIT %(most)s
)
