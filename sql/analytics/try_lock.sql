-- Whether this transaction may send windows: one worker does at a time.
SELECT pg_try_advisory_xact_lock(hashtext('slate.analytics'))
