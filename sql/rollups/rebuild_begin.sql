-- Let nobody count meanwhile. First of its transaction, so that the snapshot is taken when all others are done.
LOCK TABLE slate.rollup_progress IN EXCLUSIVE MODE
