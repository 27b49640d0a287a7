-- Close the windows in which nothing more is expected; the event time that every partition has come past.
SELECT nullif(
    slate.close_windows(%(stream)s, %(all_partitions)b::integer[], make_interval(secs => %(grace)s)),
    '-infinity'
)
