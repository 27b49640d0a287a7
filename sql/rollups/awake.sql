-- A worker starts: that there was nothing to read before it stopped says nothing of now.
UPDATE slate.rollup_progress
SET idle = FALSE, drained_at = NULL
WHERE stream = %(stream)s AND idle
