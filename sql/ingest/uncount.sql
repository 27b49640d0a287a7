-- The stream has other messages now under sequences that were counted: all must be counted anew, from the tables.
UPDATE slate.rollup_progress
SET seq = -1
WHERE stream = %(stream)s AND partition = %(partition)s
