-- depends: 0009-months-by-workers
-- A position is a sequence of the stream, and says nothing where the stream came back with an older store and has had
-- other messages since. With the time of the message at it, whoever starts sees that it is another.

ALTER TABLE slate.progress ADD COLUMN seq_at timestamptz;
COMMENT ON COLUMN slate.progress.seq_at IS
'When JetStream stored the message at seq; NULL where none of this partition is there';

CREATE FUNCTION slate.advance(
    the_stream text,
    partitions integer[],
    afters bigint[],
    positions bigint[],
    position_ats timestamptz[],
    reads bigint[],
    storeds bigint[],
    duplicates bigint[],
    deads bigint[],
    the_owner text
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE slate.progress AS p SET
        seq = n.position,
        seq_at = CASE WHEN n.position = n.after THEN p.seq_at ELSE n.position_at END,
        read = p.read + n.read,
        stored = p.stored + n.stored,
        duplicate = p.duplicate + n.duplicate,
        dead_lettered = p.dead_lettered + n.dead,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, position_ats, reads, storeds, duplicates, deads)
        AS n (partition, after, position, position_at, read, stored, duplicate, dead)
    WHERE p.stream = the_stream AND p.partition = n.partition AND p.seq = n.after;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another worker has moved a partition of stream % on', the_stream USING ERRCODE = 'SL001';
    END IF;
END
$$;
COMMENT ON FUNCTION slate.advance(
    text, integer[], bigint[], bigint[], timestamptz[], bigint[], bigint[], bigint[], bigint[], text
) IS
'Moves partitions from where the caller left them, in the transaction that stores what was read; SL001 if another '
'worker has moved one';

-- Workers of the version before, until all are replaced, do not know the time.
CREATE OR REPLACE FUNCTION slate.advance(
    the_stream text,
    partitions integer[],
    afters bigint[],
    positions bigint[],
    reads bigint[],
    storeds bigint[],
    duplicates bigint[],
    deads bigint[],
    the_owner text
) RETURNS void LANGUAGE sql SET search_path = pg_catalog AS $$
SELECT slate.advance(
    the_stream, partitions, afters, positions, array_fill(NULL::timestamptz, ARRAY[cardinality(partitions)]),
    reads, storeds, duplicates, deads, the_owner
)
$$;
