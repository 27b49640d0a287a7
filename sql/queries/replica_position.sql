-- Up to where the replica has replayed the primary's log, in bytes, NULL if it is none; and the age in seconds of the
-- last transaction in that.
SELECT
    CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint END AS position,
    extract(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())::double precision AS age_s
