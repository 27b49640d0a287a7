-- depends: 0001-tables

-- Identities of stored events: what makes "the same id is stored once" true over all tables and all time.
CREATE TABLE slate.event_ids (
    id uuid PRIMARY KEY,
    day date NOT NULL DEFAULT current_date
);

-- How far each partition is written. A worker resumes from `seq`, which moves in the transaction that stores the rows.
CREATE TABLE slate.progress (
    stream text NOT NULL,
    partition integer NOT NULL CHECK (partition >= -1),
    created timestamptz NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    read bigint NOT NULL DEFAULT 0,
    stored bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    owner text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, partition),
    CONSTRAINT ledger_balances CHECK (read = stored + duplicate + dead_lettered)
) WITH (fillfactor = 50);

-- Sequences that left the stream before they were read.
CREATE TABLE slate.gaps (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    partition integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    reason text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now()
);

-- The account of every partition: read = stored + duplicate + dead_lettered, and what was lost before it was read.
CREATE VIEW slate.ledger AS
SELECT
    p.stream,
    p.partition,
    p.seq,
    p.read,
    p.stored,
    p.duplicate,
    p.dead_lettered,
    coalesce(g.lost, 0)::bigint AS lost,
    p.updated_at
FROM slate.progress AS p
LEFT JOIN (
    SELECT
        stream,
        partition,
        sum(upper(gap) - lower(gap)) AS lost -- of overlapping gaps, each sequence once
    FROM (
        SELECT
            stream,
            partition,
            unnest(range_agg(int8range(first_seq, last_seq, '[]'))) AS gap
        FROM slate.gaps
        GROUP BY stream, partition
    ) AS merged
    GROUP BY stream, partition
) AS g USING (stream, partition);

-- What could not be stored, as it came.
CREATE TABLE slate.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    stage text NOT NULL CHECK (stage IN ('decode', 'subject', 'validate', 'store', 'publisher')),
    code text NOT NULL,
    reason text NOT NULL,
    path text NOT NULL DEFAULT '',
    subject text NOT NULL,
    stream text NOT NULL,
    partition integer NOT NULL,
    seq bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    element integer,
    payload bytea NOT NULL,
    headers bytea NOT NULL,
    replayed_at timestamptz
);
CREATE INDEX dead_letters_received_at ON slate.dead_letters (received_at);

-- Move partitions on, in the transaction that stores what was read.
CREATE FUNCTION slate.advance(
    the_stream text,
    partitions integer[],
    afters bigint[],
    positions bigint[],
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
        read = p.read + n.read,
        stored = p.stored + n.stored,
        duplicate = p.duplicate + n.duplicate,
        dead_lettered = p.dead_lettered + n.dead,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, reads, storeds, duplicates, deads)
        AS n (partition, after, position, read, stored, duplicate, dead)
    WHERE p.stream = the_stream AND p.partition = n.partition AND p.seq = n.after;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another worker has moved a partition of stream % on', the_stream USING ERRCODE = 'SL001';
    END IF;
END
$$;

-- Make the partition of spark_events for a month (UTC). Readers and writers of other months go on meanwhile: attaching
-- takes ShareUpdateExclusive on the parent, where CREATE TABLE .. PARTITION OF would take AccessExclusive.
CREATE FUNCTION slate.ensure_month(a_day date) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    month timestamptz := date_trunc('month', a_day::timestamptz);
    name text := to_char(month, '"spark_events_"YYYY_MM');
BEGIN
    FOR turn IN 1..2 LOOP
        IF pg_partition_root(to_regclass('public.' || name)) = 'public.spark_events'::regclass THEN
            RETURN NULL;
        END IF;
        -- Somebody else may make it at this moment: look again when he is done. An advisory lock would not do, for it
        -- leaves our catalogue caches as they were.
        LOCK TABLE public.spark_events IN SHARE UPDATE EXCLUSIVE MODE;
    END LOOP;
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RAISE EXCEPTION '% is detached from spark_events, so it takes no events: attach it again, or drop it', name
            USING ERRCODE = 'check_violation';
    END IF;
    EXECUTE format(
        'CREATE TABLE public.%I ('
        'LIKE public.spark_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMMENTS)',
        name
    );
    EXECUTE format(
        'ALTER TABLE public.spark_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        name, month, month + interval '1 month'
    );
    EXECUTE format('COMMENT ON TABLE public.%I IS %L', name, to_char(month, '"Events of "YYYY-MM" (UTC)"'));
    RETURN name;
END
$$;
