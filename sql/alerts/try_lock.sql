-- Whether this transaction may deliver to a receiver: one worker does at a time.
SELECT pg_try_advisory_xact_lock(hashtext('slate.alerts'), hashtext(%(receiver)s))
