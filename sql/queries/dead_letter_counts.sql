-- Dead letters that wait for a replay, by stage and kind of fault, the most frequent first.
SELECT
    stage,
    code,
    count(*) AS waiting
FROM slate.dead_letters
WHERE replayed_at IS NULL
GROUP BY stage, code
ORDER BY waiting DESC, stage ASC, code ASC
