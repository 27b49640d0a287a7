-- Calls that were changed between two sequences of the stream, whatever their partition. Times in microseconds.
SELECT
    seq,
    (extract(EPOCH FROM old_ts) * 1000000)::bigint AS old_us,
    old_name,
    old_status,
    old_duration_ms,
    (extract(EPOCH FROM new_ts) * 1000000)::bigint AS new_us,
    new_name,
    new_status,
    new_duration_ms
FROM slate.call_changes
WHERE stream = %(stream)s AND seq > %(after)s AND seq <= %(upto)s
