-- Figures that a look took into account and that are kept, or those that came since: nothing older than `since` did.
SELECT
    (extract(EPOCH FROM at) / 2)::bigint AS tick,
    signal,
    key,
    detail,
    session_id,
    count,
    tokens,
    cost,
    bins::text AS bins
FROM slate.alert_signals
WHERE xid >= %(since)s::xid8 AND pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot) = %(taken)s
