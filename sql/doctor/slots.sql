-- Replication slots that nobody reads from, and how much of the log each keeps on the disk, bytes.
SELECT
    slot_name AS slot,
    coalesce(wal_status, 'unknown') AS state,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS bytes
FROM pg_replication_slots
WHERE NOT active
ORDER BY slot_name
