-- depends: 0003-comments

-- What ingest tells those who read the stream after it: of which messages it stored nothing, and which messages
-- changed a call that was stored already. Written in the transaction that stores the rest, and deleted in the one
-- that counts it.
CREATE TABLE slate.skipped (
    stream text NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,
    seqs bigint[] NOT NULL,
    dead_seqs bigint[] NOT NULL,
    dead_codes text[] NOT NULL,
    PRIMARY KEY (stream, partition, position)
);

CREATE TABLE slate.call_changes (
    stream text NOT NULL,
    seq bigint NOT NULL,
    old_ts timestamptz NOT NULL,
    old_name text NOT NULL,
    old_status text NOT NULL,
    old_duration_ms integer,
    new_ts timestamptz NOT NULL,
    new_name text NOT NULL,
    new_status text NOT NULL,
    new_duration_ms integer,
    PRIMARY KEY (stream, seq)
);

-- How far each partition is counted in the daily tables and in the windows. `seq` moves in the transaction that adds
-- what was counted, and never passes that of `slate.progress`.
CREATE TABLE slate.rollup_progress (
    stream text NOT NULL,
    partition integer NOT NULL,
    created timestamptz NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    read bigint NOT NULL DEFAULT 0,
    watermark timestamptz,
    idle boolean NOT NULL DEFAULT FALSE,
    owner text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, partition)
) WITH (fillfactor = 50);

-- What was stored before there was any of this is counted from the tables: no stream was created then.
INSERT INTO slate.rollup_progress (stream, partition, created)
SELECT
    stream,
    partition,
    '-infinity'
FROM slate.progress
WHERE read > 0;

CREATE TABLE slate.windows (
    start timestamptz NOT NULL,
    seconds integer NOT NULL CHECK (seconds IN (60, 300)),
    signal text NOT NULL CHECK (
        signal IN ('calls', 'usage_by_model', 'usage_by_user', 'events', 'dead_letters', 'ingest_delay')
    ),
    key text NOT NULL,
    status text NOT NULL,
    count bigint NOT NULL,
    tokens_prompt bigint NOT NULL,
    tokens_completion bigint NOT NULL,
    cost numeric NOT NULL,
    bins jsonb NOT NULL,
    late bigint NOT NULL,
    revision integer NOT NULL DEFAULT 0,
    sent integer NOT NULL DEFAULT 0,
    closed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (start, seconds, signal, key, status)
) WITH (fillfactor = 70);
CREATE INDEX windows_open ON slate.windows (start) WHERE closed_at IS NULL;
CREATE INDEX windows_to_send ON slate.windows (closed_at) WHERE closed_at IS NOT NULL AND sent < revision;

-- The sum of two histograms, each an object of bin and count. Bins that come to nothing are left out.
CREATE FUNCTION slate.add_bins(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog AS $$
SELECT CASE
    WHEN a = '{}' THEN b
    WHEN b = '{}' THEN a
    ELSE (
        SELECT coalesce(jsonb_object_agg(bin, n), '{}')
        FROM (
            SELECT key AS bin, sum(value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS both_of_them
            GROUP BY key
        ) AS sums
        WHERE n <> 0
    )
END
$$;
CREATE AGGREGATE slate.sum_bins(jsonb) ( -- noqa: LT01
    SFUNC = slate.add_bins, STYPE = jsonb, INITCOND = '{}' -- noqa: CP02,CP05,LT01
);

-- The bin of a duration. Bins are those of a DDSketch with an accuracy of 1 %: bin n holds (g^(n-1), g^n], where
-- g = 1.01 / 0.99; bin -1 holds zero.
CREATE FUNCTION slate.bin(ms bigint) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog AS $$
SELECT CASE WHEN ms = 0 THEN -1 ELSE ceil(ln(ms::double precision) / ln(1.01::double precision / 0.99)) END::integer
$$;

-- A quantile of a histogram, in the unit of its values, right to 1 % of itself.
CREATE FUNCTION slate.quantile(bins jsonb, share double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
SELECT
    CASE WHEN bin < 0 THEN 0 ELSE power(1.01::double precision / 0.99, bin) * 2 / (1 + 1.01::double precision / 0.99) END
FROM (
    SELECT
        key::integer AS bin,
        sum(value::bigint) OVER (ORDER BY key::integer) AS up_to,
        sum(value::bigint) OVER () AS n
    FROM jsonb_each_text(bins)
) AS cumulative
WHERE up_to > share * (n - 1)
ORDER BY bin
LIMIT 1
$$;

-- Latencies of calls by window and function, whatever their outcome.
CREATE VIEW slate.call_latencies AS
SELECT
    start,
    seconds,
    key AS name,
    count,
    failed,
    slate.quantile(bins, 0.5) AS p50_ms,
    slate.quantile(bins, 0.95) AS p95_ms,
    slate.quantile(bins, 0.99) AS p99_ms
FROM (
    SELECT
        start,
        seconds,
        key,
        sum(count)::bigint AS count,
        coalesce(sum(count) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
        slate.sum_bins(bins) AS bins
    FROM slate.windows
    WHERE signal = 'calls'
    GROUP BY start, seconds, key
) AS both_outcomes;

-- Move counted partitions on, and forget what ingest told of what is counted now.
CREATE FUNCTION slate.advance_rollups(
    the_stream text,
    partitions integer[],
    afters bigint[],
    positions bigint[],
    reads bigint[],
    watermarks timestamptz[],
    idles boolean[],
    call_seqs bigint[],
    the_owner text
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE slate.rollup_progress AS p SET
        seq = n.position,
        read = p.read + n.read,
        watermark = greatest(p.watermark, n.watermark),
        idle = n.idle,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, reads, watermarks, idles)
        AS n (partition, after, position, read, watermark, idle)
    WHERE p.stream = the_stream AND p.partition = n.partition AND p.seq = n.after;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another worker has moved a partition of stream % on', the_stream USING ERRCODE = 'SL001';
    END IF;
    DELETE FROM slate.skipped AS s
    USING unnest(partitions, positions) AS n (partition, position)
    WHERE s.stream = the_stream AND s.partition = n.partition AND s.position <= n.position;
    DELETE FROM slate.call_changes WHERE stream = the_stream AND seq = any(call_seqs);
END
$$;

-- Close the windows in which nothing more is expected. By event time: every partition has come past their end and the
-- grace; one that has nothing to read does not hold the others back, but one whose reader is silent does. By the clock:
-- no partition has anything to read, and nothing was added for as long as the grace. Returns the event time that every
-- partition has come past.
CREATE FUNCTION slate.close_windows(the_stream text, all_partitions integer[], grace interval)
RETURNS timestamptz LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    reached timestamptz;
    at_rest boolean;
BEGIN
    SELECT
        CASE
            WHEN count(*) < cardinality(all_partitions) THEN NULL
            WHEN bool_and(quiet) THEN max(watermark)
            ELSE min(coalesce(watermark, '-infinity')) FILTER (WHERE NOT quiet)
        END,
        count(*) = cardinality(all_partitions) AND bool_and(quiet)
    INTO reached, at_rest
    FROM (
        SELECT
            watermark,
            idle AND updated_at > now() - interval '30 seconds' AS quiet
        FROM slate.rollup_progress
        WHERE stream = the_stream AND partition = any(all_partitions)
    ) AS partitions;
    UPDATE slate.windows
    SET closed_at = now(), revision = revision + 1
    WHERE
        closed_at IS NULL
        AND (
            start + seconds * interval '1 second' + grace <= reached
            OR (
                at_rest
                AND updated_at + grace <= now()
                AND start + seconds * interval '1 second' + grace <= now()
            )
        );
    RETURN reached;
END
$$;

-- Months whose events were dropped: their daily totals are all that is left, and nothing can be held against them.
CREATE TABLE slate.dropped_months (
    month date PRIMARY KEY,
    dropped_at timestamptz NOT NULL DEFAULT now()
);

-- Where the daily tables differ from what they are counted from, for the days from `since` until before `until` (UTC).
-- `counted` is the row that is there, NULL for none, and `wanted` the one that should be: tokens of prompts and
-- completions and cost; successes, errors and their rate; events.
CREATE FUNCTION slate.rollup_differences(since date, until date)
RETURNS TABLE (rollup text, day date, key text, model text, counted numeric[], wanted numeric[])
LANGUAGE sql STABLE SET search_path = pg_catalog SET timezone = 'UTC' AS $$
SELECT 'usage', day, session_id, model, counted, wanted
FROM (
    SELECT
        ts::date AS day,
        session_id,
        model,
        ARRAY[sum(tokens_prompt), sum(tokens_completion), sum(cost_estimate)] AS wanted
    FROM public.spark_usage
    WHERE ts >= since AND ts < until
    GROUP BY ts::date, session_id, model
) AS raw
FULL JOIN (
    SELECT day, session_id, model, ARRAY[tokens_prompt, tokens_completion, cost_estimate] AS counted
    FROM public.spark_usage_daily
    WHERE day >= since AND day < until
) AS total USING (day, session_id, model)
WHERE counted IS DISTINCT FROM wanted
UNION ALL
SELECT 'errors', day, name, '', counted, wanted
FROM (
    SELECT day, name, ARRAY[successes, errors, round(errors / (successes + errors), 3)] AS wanted
    FROM (
        SELECT
            ts::date AS day,
            name,
            count(*) FILTER (WHERE status = 'success')::numeric AS successes,
            count(*) FILTER (WHERE status = 'failed')::numeric AS errors
        FROM public.spark_function_calls
        WHERE ts >= since AND ts < until
        GROUP BY ts::date, name
    ) AS calls
) AS raw
FULL JOIN (
    SELECT day, name, ARRAY[success_count, error_count, error_rate] AS counted
    FROM public.spark_errors_daily
    WHERE day >= since AND day < until
) AS total USING (day, name)
WHERE counted IS DISTINCT FROM wanted
UNION ALL
SELECT 'events', day, type, '', counted, wanted
FROM (
    SELECT ts::date AS day, type, ARRAY[count(*)::numeric] AS wanted
    FROM public.spark_events
    WHERE ts >= since AND ts < until
    GROUP BY ts::date, type
) AS raw
FULL JOIN (
    SELECT day, type, ARRAY[event_count::numeric] AS counted
    FROM public.spark_events_daily
    WHERE day >= since AND day < until
) AS total USING (day, type)
WHERE
    counted IS DISTINCT FROM wanted
    AND date_trunc('month', day)::date NOT IN (SELECT month FROM slate.dropped_months)
$$;

COMMENT ON TABLE slate.skipped IS
'Messages of which ingest stored nothing, for the rollups, which delete what they have counted';
COMMENT ON COLUMN slate.skipped.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.skipped.partition IS 'Partition of the stream';
COMMENT ON COLUMN slate.skipped.position IS 'Where the partition was after the transaction that skipped them';
COMMENT ON COLUMN slate.skipped.seqs IS 'Stream sequences of messages of which nothing is stored';
COMMENT ON COLUMN slate.skipped.dead_seqs IS 'Stream sequence of each dead letter';
COMMENT ON COLUMN slate.skipped.dead_codes IS 'Its kind of fault';

COMMENT ON TABLE slate.call_changes IS
'Calls that a later message changed, before and after it, for the rollups, which delete what they have counted';
COMMENT ON COLUMN slate.call_changes.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.call_changes.seq IS 'Stream sequence of the message that changed it';
COMMENT ON COLUMN slate.call_changes.old_ts IS 'spark_function_calls.ts before';
COMMENT ON COLUMN slate.call_changes.old_name IS 'spark_function_calls.name before';
COMMENT ON COLUMN slate.call_changes.old_status IS 'spark_function_calls.status before';
COMMENT ON COLUMN slate.call_changes.old_duration_ms IS 'spark_function_calls.duration_ms before';
COMMENT ON COLUMN slate.call_changes.new_ts IS 'spark_function_calls.ts after';
COMMENT ON COLUMN slate.call_changes.new_name IS 'spark_function_calls.name after';
COMMENT ON COLUMN slate.call_changes.new_status IS 'spark_function_calls.status after';
COMMENT ON COLUMN slate.call_changes.new_duration_ms IS 'spark_function_calls.duration_ms after';

COMMENT ON TABLE slate.rollup_progress IS
'How far each partition of a stream is counted in the daily tables and in slate.windows';
COMMENT ON COLUMN slate.rollup_progress.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.rollup_progress.partition IS 'Partition of the stream, as in slate.progress';
COMMENT ON COLUMN slate.rollup_progress.created IS 'When the stream was created';
COMMENT ON COLUMN slate.rollup_progress.seq IS 'Stream sequence up to which the partition is counted';
COMMENT ON COLUMN slate.rollup_progress.read IS
'Messages counted; the rollups are at rest where it equals slate.progress.read';
COMMENT ON COLUMN slate.rollup_progress.watermark IS 'Latest event time counted';
COMMENT ON COLUMN slate.rollup_progress.idle IS 'Whether the stream held nothing more of it then';
COMMENT ON COLUMN slate.rollup_progress.owner IS 'Worker that counted last';
COMMENT ON COLUMN slate.rollup_progress.updated_at IS 'When it was counted last';

COMMENT ON TABLE slate.windows IS
'Figures of one and five minutes of event time; a closed window to which something late was added is open again';
COMMENT ON COLUMN slate.windows.start IS 'Event time at which the window begins';
COMMENT ON COLUMN slate.windows.seconds IS 'How long it is: 60 or 300';
COMMENT ON COLUMN slate.windows.signal IS
'What is counted: calls, usage_by_model, usage_by_user, events, dead_letters or ingest_delay (by time of receipt)';
COMMENT ON COLUMN slate.windows.key IS
'Function, model, user (empty: unknown), type of event or kind of fault; empty for ingest_delay';
COMMENT ON COLUMN slate.windows.status IS 'success or failed for calls, else empty';
COMMENT ON COLUMN slate.windows.count IS 'How many';
COMMENT ON COLUMN slate.windows.tokens_prompt IS 'Tokens of their prompts';
COMMENT ON COLUMN slate.windows.tokens_completion IS 'Tokens of their completions';
COMMENT ON COLUMN slate.windows.cost IS 'Their cost, US dollars';
COMMENT ON COLUMN slate.windows.bins IS
'Histogram of durations (calls) or delays (ingest_delay), milliseconds: count by bin; see slate.quantile';
COMMENT ON COLUMN slate.windows.late IS 'How many came after it was closed';
COMMENT ON COLUMN slate.windows.revision IS 'How often it was closed';
COMMENT ON COLUMN slate.windows.sent IS 'Revision that SLATE_ANALYTICS_URL has acknowledged';
COMMENT ON COLUMN slate.windows.closed_at IS 'When it was closed; NULL while it is open';

COMMENT ON COLUMN slate.windows.updated_at IS 'When something was added last';

COMMENT ON VIEW slate.call_latencies IS 'Latencies of calls by window and function, whatever their outcome';
COMMENT ON COLUMN slate.call_latencies.start IS 'Event time at which the window begins';
COMMENT ON COLUMN slate.call_latencies.seconds IS 'How long it is: 60 or 300';
COMMENT ON COLUMN slate.call_latencies.name IS 'Function';
COMMENT ON COLUMN slate.call_latencies.count IS 'Calls';
COMMENT ON COLUMN slate.call_latencies.failed IS 'Failed ones among them';
COMMENT ON COLUMN slate.call_latencies.p50_ms IS 'Median duration, milliseconds, to 1 %';
COMMENT ON COLUMN slate.call_latencies.p95_ms IS '95th percentile of their durations, milliseconds, to 1 %';
COMMENT ON COLUMN slate.call_latencies.p99_ms IS '99th percentile of their durations, milliseconds, to 1 %';

COMMENT ON TABLE slate.dropped_months IS
'Months whose events were dropped: their daily totals are all that is left of them';
COMMENT ON COLUMN slate.dropped_months.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN slate.dropped_months.dropped_at IS 'When they were dropped';

COMMENT ON FUNCTION slate.rollup_differences(date, date) IS
'Where the daily tables differ from what they are counted from, and what they should hold';
COMMENT ON FUNCTION slate.bin(bigint) IS 'The bin of a duration in milliseconds';
COMMENT ON FUNCTION slate.add_bins(jsonb, jsonb) IS 'The sum of two histograms';
COMMENT ON AGGREGATE slate.sum_bins(jsonb) IS 'The sum of histograms'; -- noqa: LT01
COMMENT ON FUNCTION slate.quantile(jsonb, double precision) IS 'A quantile of a histogram, right to 1 % of itself';
COMMENT ON FUNCTION slate.advance_rollups(
    text, integer[], bigint[], bigint[], bigint[], timestamptz[], boolean[], bigint[], text
) IS
'Moves counted partitions from where the caller left them, in the transaction that adds what was counted; SL001 if '
'another worker has moved one';
COMMENT ON FUNCTION slate.close_windows(text, integer[], interval) IS
'Closes the windows in which nothing more is expected; returns the event time that every partition has come past';
