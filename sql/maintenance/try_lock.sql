-- Whether this transaction may do what only one may at a time.
SELECT pg_try_advisory_xact_lock(hashtext('slate.maintain'))
