-- Put a partition elsewhere: the stream was made anew, restored, or has dropped what was not read.
UPDATE slate.progress
SET seq = %(seq)s, seq_at = NULL, created = %(created)s, updated_at = now()
WHERE stream = %(stream)s AND partition = %(partition)s
