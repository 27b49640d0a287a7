-- Move counted partitions on; fails with SL001 when one is not where we left it.
SELECT slate.advance_rollups(
    %(stream)s, %(partitions)b::integer[], %(afters)b::bigint[], %(positions)b::bigint[], %(reads)b::bigint[],
    %(watermarks)b::timestamptz[], %(moved_ats)b::timestamptz[], %(drained_ats)b::timestamptz[],
    %(call_seqs)b::bigint[], %(owner)s
)
