-- Make the partition of spark_events for a day's month; its name when it was not there.
SELECT slate.ensure_month(%(day)s)
