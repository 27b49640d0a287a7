-- Figures that were counted since the last look.
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
WHERE xid >= pg_snapshot_xmin(%(seen)s::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
