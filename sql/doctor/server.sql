-- What kind of server answers, and whether it keeps its promises.
SELECT
    pg_backend_pid() AS pid,
    pg_is_in_recovery() AS standby,
    current_setting('fsync')::boolean AS durable,
    pg_database_size(current_database()) AS bytes
