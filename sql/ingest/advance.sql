-- Move partitions on; fails with SL001 when one is not where we left it.
SELECT slate.advance(
    %(stream)s, %(partitions)b::integer[], %(afters)b::bigint[], %(positions)b::bigint[],
    %(position_ats)b::timestamptz[],
    %(reads)b::bigint[], %(storeds)b::bigint[], %(duplicates)b::bigint[], %(deads)b::bigint[], %(owner)s
)
