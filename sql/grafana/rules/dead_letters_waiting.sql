-- Messages that only we can help: PostgreSQL or a publisher refused them a day ago, and nobody has replayed them.
SELECT
    now() AS time,
    count(*) AS waiting
FROM slate.dead_letters
WHERE replayed_at IS NULL AND received_at < now() - interval '1 day' AND stage IN ('store', 'publisher')
