-- Mark dead letters as replayed.
UPDATE slate.dead_letters
SET replayed_at = now()
WHERE id = any(%(ids)s)
