-- Tell the rollups of which messages nothing is stored.
INSERT INTO slate.skipped (stream, partition, position, seqs, dead_seqs, dead_codes)
VALUES (
    %(stream)s, %(partition)s, %(position)s,
    %(seqs)b::bigint[], %(dead_seqs)b::bigint[], %(dead_codes)b::text[]
)
