-- What ingest stored nothing of, in the transactions that begin or end between two positions of a partition.
-- noqa: disable=RF02
SELECT
    seqs,
    dead_seqs,
    dead_codes
FROM slate.skipped
WHERE
    stream = %(stream)s
    AND partition = %(partition)s
    AND position > %(after)s
    AND position <= coalesce(
        (
            SELECT min(s.position)
            FROM slate.skipped AS s
            WHERE s.stream = %(stream)s AND s.partition = %(partition)s AND s.position >= %(upto)s
        ),
        %(upto)s
    )
