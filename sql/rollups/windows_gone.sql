-- Forget windows of which no call is left, unless they were closed and so told to others.
DELETE FROM slate.windows AS old
USING
    unnest(%(start)b::timestamptz[], %(seconds)b::integer[], %(key)b::text[], %(status)b::text[])
        AS new (start, seconds, key, status)
WHERE
    old.start = new.start
    AND old.seconds = new.seconds
    AND old.signal = 'calls'
    AND old.key = new.key
    AND old.status = new.status
    AND old.count = 0
    AND old.revision = 0
