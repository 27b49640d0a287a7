-- Tell the rollups of which messages nothing is stored. A row that is there is of an older stream of that name.
INSERT INTO slate.skipped (stream, partition, position, seqs, dead_seqs, dead_codes)
VALUES (
    %(stream)s, %(partition)s, %(position)s,
    %(seqs)b::bigint[], %(dead_seqs)b::bigint[], %(dead_codes)b::text[]
)
ON CONFLICT (stream, partition, position) DO UPDATE SET
    seqs = excluded.seqs,
    dead_seqs = excluded.dead_seqs,
    dead_codes = excluded.dead_codes
