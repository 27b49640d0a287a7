-- Account for sequences that left the stream unread.
INSERT INTO slate.gaps (stream, partition, first_seq, last_seq, reason)
VALUES (%(stream)s, %(partition)s, %(first)s, %(last)s, %(reason)s)
