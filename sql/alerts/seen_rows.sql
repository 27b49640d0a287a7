-- Figures that were taken into account by the last look, and still count in a window.
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
WHERE pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
