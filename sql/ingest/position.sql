-- The position of a partition, made if it is new.
INSERT INTO slate.progress AS p (stream, partition, created)
VALUES (%(stream)s, %(partition)s, %(created)s)
ON CONFLICT (stream, partition) DO UPDATE SET stream = excluded.stream
RETURNING seq, created
