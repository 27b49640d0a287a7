-- Let ingest store nothing until the end of the transaction: it waits, and loses nothing.
LOCK TABLE slate.progress IN EXCLUSIVE MODE
