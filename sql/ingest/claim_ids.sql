-- Claim identities. A plain insert costs half of one with ON CONFLICT; the rare repetition shows as a unique violation.
INSERT INTO slate.event_ids (id)
SELECT id
FROM unnest(%(ids)b::uuid[]) AS new (id)
