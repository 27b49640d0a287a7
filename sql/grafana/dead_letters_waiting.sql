-- Dead letters that wait for a replay by kind of fault, the most frequent first.
SELECT
    stage,
    code,
    count(*) AS waiting,
    min(received_at) AS oldest,
    max(received_at) AS latest
FROM slate.dead_letters
WHERE replayed_at IS NULL
GROUP BY stage, code
ORDER BY waiting DESC, code ASC
LIMIT 100
