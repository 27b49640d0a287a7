-- Dead letters that wait for a replay, by reason, the most frequent first.
SELECT
    code,
    count(*) AS n
FROM slate.dead_letters
WHERE replayed_at IS NULL
GROUP BY code
ORDER BY n DESC
