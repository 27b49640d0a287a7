-- Which of these identities are stored already.
SELECT id
FROM slate.event_ids
WHERE id = ANY(%(ids)b::uuid [])
