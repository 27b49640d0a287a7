-- depends: 0004-rollups

-- When a partition was seen to hold nothing more, and when the event that came latest was: from these two follows up to
-- which event time all is there, also while nothing comes.
ALTER TABLE slate.rollup_progress ADD COLUMN drained_at timestamptz, ADD COLUMN moved_at timestamptz;

-- What alert rules look at: figures of two seconds of event time, appended in the transaction that counts them. Rows of
-- one moment and key add up. `xid` tells the evaluator which rows it has seen.
CREATE TABLE slate.alert_signals (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL,
    signal text NOT NULL,
    key text NOT NULL,
    detail text NOT NULL,
    session_id text NOT NULL,
    count bigint NOT NULL,
    tokens bigint NOT NULL,
    cost bigint NOT NULL,
    bins jsonb NOT NULL
);
CREATE INDEX alert_signals_xid ON slate.alert_signals (xid);

-- How far alerts are evaluated, and by whom. All that is decided is written in the transaction that moves it on.
CREATE TABLE slate.alert_progress (
    stream text PRIMARY KEY,
    seen pg_snapshot NOT NULL DEFAULT '1:1:',
    evaluated_until timestamptz,
    sampled_until timestamptz,
    budgets text[] NOT NULL DEFAULT '{}',
    owner text,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Every group of a rule that is not simply well.
CREATE TABLE slate.alert_states (
    stream text NOT NULL,
    rule text NOT NULL,
    fingerprint text NOT NULL,
    key text[],
    labels jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'firing', 'suppressed', 'cooling')),
    since timestamptz NOT NULL,
    clear_since timestamptz,
    cool_until timestamptz,
    starts_at timestamptz,
    value double precision,
    samples bigint NOT NULL,
    reason text NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, rule, fingerprint)
) WITH (fillfactor = 70);

-- What a budget's group has spent in a period: tokens, or millionths of a dollar.
CREATE TABLE slate.alert_budgets (
    stream text NOT NULL,
    rule text NOT NULL,
    key text NOT NULL,
    period timestamptz NOT NULL,
    spent bigint NOT NULL,
    PRIMARY KEY (stream, rule, key)
) WITH (fillfactor = 70);

-- The outbox: each firing and each resolution once, in the order in which they were decided.
CREATE TABLE slate.alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    rule text NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL CHECK (state IN ('firing', 'resolved')),
    labels jsonb NOT NULL,
    annotations jsonb NOT NULL,
    value double precision,
    reason text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream, fingerprint, starts_at, state)
);
CREATE INDEX alerts_created_at ON slate.alerts (created_at);

-- What became of each of them at each receiver that its routes name.
CREATE TABLE slate.alert_deliveries (
    alert bigint NOT NULL REFERENCES slate.alerts ON DELETE CASCADE,
    receiver text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (
        state IN ('pending', 'delivered', 'silenced', 'refused', 'given up')
    ),
    attempts integer NOT NULL DEFAULT 0,
    error text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (receiver, alert)
) WITH (fillfactor = 70);
CREATE INDEX alert_deliveries_alert ON slate.alert_deliveries (alert);
CREATE INDEX alert_deliveries_pending ON slate.alert_deliveries (receiver, alert) WHERE state = 'pending';

CREATE TABLE slate.alert_silences (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    matchers jsonb NOT NULL CHECK (matchers <> '{}'),
    until timestamptz NOT NULL,
    author text NOT NULL,
    comment text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Up to which event time everything has come that will come in time, NULL while that is not known. A partition that has
-- more to read is as far as its latest event. One that is drained is as far as the clock was then, less by how much
-- events lie behind the clock: so time goes on while nothing comes, and a replay of history stays in its own time.
CREATE FUNCTION slate.alert_time(the_stream text, all_partitions integer[])
RETURNS timestamptz LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
SELECT
    CASE
        WHEN count(*) = cardinality(all_partitions)
            THEN nullif(
                min(CASE WHEN idle THEN drained_at - behind ELSE coalesce(watermark, '-infinity') END),
                '-infinity'
            )
    END
FROM (
    SELECT
        watermark,
        idle AND drained_at IS NOT NULL AS idle,
        drained_at,
        first_value(greatest(moved_at - watermark, '0')) OVER (ORDER BY watermark DESC NULLS LAST) AS behind
    FROM slate.rollup_progress
    WHERE stream = the_stream AND partition = any(all_partitions)
) AS partitions
$$;

DROP FUNCTION slate.advance_rollups(
    text, integer[], bigint[], bigint[], bigint[], timestamptz[], boolean[], bigint[], text
);

-- Move counted partitions on, and forget what ingest told of what is counted now.
CREATE FUNCTION slate.advance_rollups(
    the_stream text,
    partitions integer[],
    afters bigint[],
    positions bigint[],
    reads bigint[],
    watermarks timestamptz[],
    moved_ats timestamptz[],
    drained_ats timestamptz[],
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
        moved_at = coalesce(n.moved_at, p.moved_at),
        idle = n.drained_at IS NOT NULL,
        drained_at = n.drained_at,
        owner = the_owner,
        updated_at = clock_timestamp()
    FROM unnest(partitions, afters, positions, reads, watermarks, moved_ats, drained_ats)
        AS n (partition, after, position, read, watermark, moved_at, drained_at)
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

COMMENT ON COLUMN slate.rollup_progress.drained_at IS
'When the stream was seen to hold nothing more of it; NULL while it holds more';
COMMENT ON COLUMN slate.rollup_progress.moved_at IS 'When events of it were read last';

COMMENT ON TABLE slate.alert_signals IS
'What alert rules look at: figures of two seconds of event time, kept as long as the longest window';
COMMENT ON COLUMN slate.alert_signals.xid IS 'Transaction that counted it';
COMMENT ON COLUMN slate.alert_signals.at IS 'Event time at which the two seconds begin';
COMMENT ON COLUMN slate.alert_signals.signal IS
'What is counted: calls, usage, events, previews, preview_cache, dead_letters or ingest_delay';
COMMENT ON COLUMN slate.alert_signals.key IS 'Function, model, type of event, engine or kind of fault';
COMMENT ON COLUMN slate.alert_signals.detail IS 'Status of calls and previews, hit or miss, user of usage';
COMMENT ON COLUMN slate.alert_signals.session_id IS 'Session of usage, where a rule asks for it';
COMMENT ON COLUMN slate.alert_signals.count IS 'How many; below 0 where a call turned out to be something else';
COMMENT ON COLUMN slate.alert_signals.tokens IS 'Their tokens';
COMMENT ON COLUMN slate.alert_signals.cost IS 'Their cost, millionths of a US dollar';
COMMENT ON COLUMN slate.alert_signals.bins IS
'Histogram of durations, milliseconds: count by bin; see slate.quantile';

COMMENT ON TABLE slate.alert_progress IS 'How far alerts are evaluated, and by whom';
COMMENT ON COLUMN slate.alert_progress.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.alert_progress.seen IS
'Snapshot of the rows of slate.alert_signals that are taken into account';
COMMENT ON COLUMN slate.alert_progress.evaluated_until IS 'Event time up to which rules on events are evaluated';
COMMENT ON COLUMN slate.alert_progress.sampled_until IS 'Clock time up to which rules on samples are evaluated';
COMMENT ON COLUMN slate.alert_progress.budgets IS 'Budgets whose spending is known: what came before is counted in';
COMMENT ON COLUMN slate.alert_progress.owner IS 'Worker that evaluates';
COMMENT ON COLUMN slate.alert_progress.lease_until IS 'When another may, unless the owner has prolonged it';
COMMENT ON COLUMN slate.alert_progress.updated_at IS 'When it was moved on last';

COMMENT ON TABLE slate.alert_states IS 'Groups of alert rules that are not simply well';
COMMENT ON COLUMN slate.alert_states.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.alert_states.rule IS 'Name of the rule';
COMMENT ON COLUMN slate.alert_states.fingerprint IS 'Identity of the labels';
COMMENT ON COLUMN slate.alert_states.key IS
'Values of the labels that the rule groups by; NULL for the alert that counts the groups above the limit';
COMMENT ON COLUMN slate.alert_states.labels IS 'Labels of the alert';
COMMENT ON COLUMN slate.alert_states.status IS
'pending; firing; suppressed (firing, and not told: above the limit of the rule); cooling (resolved a short time ago)';
COMMENT ON COLUMN slate.alert_states.since IS 'Since when it has this status';
COMMENT ON COLUMN slate.alert_states.clear_since IS 'Since when the value is clear of the threshold, while firing';
COMMENT ON COLUMN slate.alert_states.cool_until IS 'Until when it does not fire again';
COMMENT ON COLUMN slate.alert_states.starts_at IS 'When the episode began; part of its identity';
COMMENT ON COLUMN slate.alert_states.value IS 'Latest value; NULL for no data';
COMMENT ON COLUMN slate.alert_states.samples IS 'Of how many samples';
COMMENT ON COLUMN slate.alert_states.reason IS 'Why it is as it is';
COMMENT ON COLUMN slate.alert_states.acknowledged_at IS 'When somebody took it on';
COMMENT ON COLUMN slate.alert_states.acknowledged_by IS 'Who did';
COMMENT ON COLUMN slate.alert_states.updated_at IS 'When this row was written';

COMMENT ON TABLE slate.alert_budgets IS 'What was spent in the current period, by budget and group';
COMMENT ON COLUMN slate.alert_budgets.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.alert_budgets.rule IS 'Name of the budget';
COMMENT ON COLUMN slate.alert_budgets.key IS 'User, session or model; empty for all';
COMMENT ON COLUMN slate.alert_budgets.period IS 'Beginning of the hour, day or month (UTC)';
COMMENT ON COLUMN slate.alert_budgets.spent IS 'Tokens, or millionths of a US dollar';

COMMENT ON TABLE slate.alerts IS 'Outbox of alerts: each firing and each resolution once, in order';
COMMENT ON COLUMN slate.alerts.id IS 'Order in which they were decided';
COMMENT ON COLUMN slate.alerts.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.alerts.rule IS 'Name of the rule';
COMMENT ON COLUMN slate.alerts.fingerprint IS 'Identity of the labels';
COMMENT ON COLUMN slate.alerts.state IS 'firing or resolved';
COMMENT ON COLUMN slate.alerts.labels IS 'Labels: name of the rule, severity, group, and those of the rule';
COMMENT ON COLUMN slate.alerts.annotations IS 'For people: summary, description, runbook_url';
COMMENT ON COLUMN slate.alerts.value IS 'Value that decided; NULL for no data';
COMMENT ON COLUMN slate.alerts.reason IS 'Why it was decided';
COMMENT ON COLUMN slate.alerts.starts_at IS 'Event time at which the episode began to fire';
COMMENT ON COLUMN slate.alerts.ends_at IS 'Event time at which it was over; NULL for firing';
COMMENT ON COLUMN slate.alerts.created_at IS 'When it was decided, by the clock';

COMMENT ON TABLE slate.alert_deliveries IS 'What became of alerts at the receivers that their routes name';
COMMENT ON COLUMN slate.alert_deliveries.alert IS 'slate.alerts.id';
COMMENT ON COLUMN slate.alert_deliveries.receiver IS 'Name of the receiver';
COMMENT ON COLUMN slate.alert_deliveries.state IS
'pending; delivered; silenced (over before the silence was); refused (the receiver wants it in no form); given up';
COMMENT ON COLUMN slate.alert_deliveries.attempts IS 'How often it was tried';
COMMENT ON COLUMN slate.alert_deliveries.error IS 'What went wrong last';
COMMENT ON COLUMN slate.alert_deliveries.updated_at IS 'When it was tried last';

COMMENT ON TABLE slate.alert_silences IS 'Alerts of which nothing is told for a time';
COMMENT ON COLUMN slate.alert_silences.id IS 'Number of the silence';
COMMENT ON COLUMN slate.alert_silences.matchers IS 'Labels that an alert must have, all of them';
COMMENT ON COLUMN slate.alert_silences.until IS 'When it is over';
COMMENT ON COLUMN slate.alert_silences.author IS 'Who made it';
COMMENT ON COLUMN slate.alert_silences.comment IS 'Why';
COMMENT ON COLUMN slate.alert_silences.created_at IS 'When it was made';

COMMENT ON FUNCTION slate.alert_time IS 'Up to which event time everything has come that will come in time';
COMMENT ON FUNCTION slate.advance_rollups IS
'Moves counted partitions from where the caller left them, in the transaction that adds what was counted; SL001 if '
'another worker has moved one';
