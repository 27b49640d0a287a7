-- Move counted partitions on; fails with SL001 when one is not where we left it, or when the database goes on with
-- another history than that in which it was seen what ingest had stored.
SELECT slate.advance_rollups(
    %(stream)s, %(partitions)b::integer[],
    CASE
        WHEN coalesce(left(pg_walfile_name(pg_current_wal_lsn()), 8) = %(timeline)s::text, TRUE)
            THEN %(afters)b::bigint[]
    END,
    %(positions)b::bigint[], %(reads)b::bigint[],
    %(watermarks)b::timestamptz[], %(moved_ats)b::timestamptz[], %(drained_ats)b::timestamptz[],
    %(call_seqs)b::bigint[], %(owner)s
)
