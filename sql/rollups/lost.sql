-- Sequences between two positions that left the stream before ingest read them, so that nothing of them is stored.
-- Those that were found before the stream was made belong to its predecessor of the same name.
-- noqa: disable=RF02
SELECT
    g.first_seq,
    g.last_seq
FROM slate.gaps AS g
INNER JOIN slate.progress AS p ON g.stream = p.stream AND g.partition = p.partition
WHERE
    g.stream = %(stream)s
    AND g.partition = %(partition)s
    AND g.last_seq > %(after)s
    AND g.first_seq <= %(upto)s
    AND g.found_at >= p.created
