-- Which of these identities are stored already.
SELECT id
FROM slate.event_ids
WHERE id = any(%(ids)b::uuid[])
