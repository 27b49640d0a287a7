"""From messages to outcomes: each message becomes rows, a duplicate or a dead letter. Pure, and whole batches.

`validate` is the one public function. A handler per kind of subject decodes the payload, checks what the models
cannot say, and appends row tuples in the column order of `flows.rows`.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from connectors.messages import NatsBatch, NatsSourceMessage
from flows import rows
from flows.events import (
    BUILD_STATUS,
    PREVIEW_STATUS,
    Build,
    ConnectionFailure,
    DeadLetter,
    Delta,
    Envelope,
    FunctionCall,
    FunctionResult,
    Kind,
    Other,
    Outcomes,
    Preview,
    Refused,
    Route,
    Runtime,
    Session,
    Telemetry,
    TelemetryBatch,
    Usage,
    identity_key,
    jetstream_identity,
    parse_subject,
)
from flows.payloads import (
    event_time,
    explain,
    given,
    json_object,
    other_fields,
    parse_payload,
    text_of,
    user_uuid,
)

_session = msgspec.json.Decoder(Session)
_function_call = msgspec.json.Decoder(FunctionCall)
_result = msgspec.json.Decoder(FunctionResult)
_telemetry = msgspec.json.Decoder(Telemetry)
_telemetry_batch = msgspec.json.Decoder(TelemetryBatch)
_usage = msgspec.json.Decoder(Usage)
_preview = msgspec.json.Decoder(Preview)
_runtime = msgspec.json.Decoder(Runtime)
_build = msgspec.json.Decoder(Build)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

_ENVELOPE: Final = frozenset(("sessionId", "timestamp", "eventId", "userId", "projectId"))
_EVENT: Final = _ENVELOPE | {"type"}
_SESSION: Final = _EVENT | {"model", "mode"}
_PREVIEW: Final = _EVENT | {"engine", "status", "frameRef", "meta"}
_TELEMETRY: Final = _ENVELOPE | {"kind", "data"}
_MAX_COST: Final = Decimal("999999.9999995")
_FALSE: Final = Raw(b"false")


def validate(source: NatsBatch) -> Outcomes:
    """Turn consecutive messages of one partition into their outcomes.

    The result depends on the messages alone: no clock, no state. An identity that comes again within the batch is
    a duplicate here; one that the database knows already is found by the sink.
    """
    batch = _Batch(source.stream)
    for index, message in enumerate(source.messages):
        batch.index = index
        try:
            route, handle = _dispatch(message.subject)
            if handle is not _undeliverable:
                try:
                    batch.fields = parse_payload(message.payload)
                except Refused as why:
                    if handle is not _telemetry_elements or why.stage == "decode":
                        raise
                    batch.fields = {}
            handle(batch, route, message)
        except Exception as error:  # noqa: BLE001 - whatever a payload provokes hurts that message only
            batch.refuse(message, error)
    read = len(source.messages)
    return Outcomes(
        batch=source,
        rows=batch.rows,
        ids=list(batch.owners),
        owners=list(batch.owners.values()),
        dead=batch.dead,
        dead_owners=batch.dead_owners,
        settled=batch.settled,
        repeated=batch.repeated,
        stored=batch.stored,
        duplicate=read - batch.stored - len(batch.dead) + batch.partly_dead,
        dead_messages=len(batch.dead) - batch.partly_dead,
    )


class _Batch:
    """The outcomes of one batch while they are collected."""

    __slots__ = (
        "dead",
        "dead_owners",
        "fields",
        "index",
        "owners",
        "partly_dead",
        "repeated",
        "rows",
        "settled",
        "stored",
        "stream",
    )

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.index = 0
        self.fields: dict[str, object] = {}  # of the message at `index`; none where an element may be to blame
        self.rows: dict[str, list[tuple[object, ...]]] = {}
        self.owners: dict[bytes, int] = {}
        self.dead: list[DeadLetter] = []
        self.dead_owners: list[int] = []
        self.settled: set[int] = set()
        self.repeated: set[int] = set()
        self.stored = 0
        self.partly_dead = 0  # dead letters that are not the whole of their message

    def refuse(self, message: NatsSourceMessage, error: Exception, element: int | None = None) -> None:
        why = error if isinstance(error, Refused) else explain(error)
        path = why.path if element is None else f"$.events[{element}]{why.path[1:]}"
        self.keep(DeadLetter(message, why.stage, why.code, why.reason, path, element))

    def keep(self, letter: DeadLetter) -> None:
        self.dead.append(letter)
        self.dead_owners.append(self.index)

    def claim(self, identity: str | None) -> tuple[bytes | None, bool]:
        """The key for an identity, and whether it is new in this batch; a position in the stream always is."""
        if identity is None:
            return None, True
        key = identity_key(identity)
        if key in self.owners:
            self.repeated.add(self.index)
            return key, False
        self.owners[key] = self.index
        return key, True

    def row(self, table: str, row: tuple[object, ...]) -> None:
        try:
            self.rows[table].append(row)
        except KeyError:
            self.rows[table] = [row]


_Handler = Callable[[_Batch, Route, NatsSourceMessage], None]


@lru_cache(maxsize=65_536)
def _dispatch(subject: str) -> tuple[Route, _Handler]:
    route = parse_subject(subject)
    return route, _HANDLERS[route.kind]


def _identity(event: Envelope, message: NatsSourceMessage) -> str | None:
    return event.event_id or jetstream_identity(message)


def _check_session(event: Envelope, route: Route) -> None:
    if event.session_id is not None and event.session_id != route.session_id:
        raise Refused(
            "validate",
            "session",
            f"sessionId {event.session_id[:50]!r} contradicts the subject's {route.session_id[:50]!r}",
            "$.sessionId",
        )


def _check_owner(event: Envelope) -> None:
    """For the kinds of event whose tables have no column for it: a wrong id is wrong there, too."""
    if event.user_id is not None:
        user_uuid(event.user_id, "$.userId")
    if event.project_id is not None:
        user_uuid(event.project_id, "$.projectId")


def _undeliverable(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    """What came on `spark.dlq`, kept as it is; its own `error` is the reason where it has one."""
    reason = "a publisher could not deliver it"
    try:
        told = text_of(_fields.decode(message.payload).get("error", Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    batch.keep(DeadLetter(message, "publisher", "publisher", f"{reason}: {told[:500]}" if told else reason))


def _event_row(
    type_: str, event: Envelope, ts: int, route: Route, payload: Raw, message: NatsSourceMessage
) -> tuple[object, ...]:
    """A row of `spark_events` without its key. Its payload is the event's `payload`, else the remaining fields."""
    return (
        route.session_id,
        type_,
        ts,
        user_uuid(event.user_id, "$.userId"),
        user_uuid(event.project_id, "$.projectId"),
        bytes(payload) or _encode(other_fields(message.payload, _EVENT)),
    )


def _session_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Session = _session.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    connected = route.kind is Kind.CONNECTED
    type_ = "connected" if connected else "disconnected"
    if event.type is not None and event.type != type_:
        raise Refused("validate", "unknown_value", f"type {event.type!r} contradicts the subject's {type_!r}", "$.type")
    ts = event_time(event, message)
    row = _event_row(type_, event, ts, route, event.payload, message)
    others = other_fields(message.payload, _SESSION) if connected else None
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        times = (ts, None) if connected else (None, ts)
        meta = _encode(others) if others else None
        user = user_uuid(event.user_id, "$.userId")
        batch.row(rows.SESSIONS, (key, route.session_id, *times, user, event.model, event.mode, meta))
        batch.row(rows.EVENTS, (key, *row))


def _call(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: FunctionCall = _function_call.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    status = event.status
    error = text_of(event.error)
    output = given(event.output)
    if event.name is None and event.function_name is None:
        raise Refused("validate", "missing", "Object missing required field name", "$")
    if status is None:
        result = json_object(event.result, "$.result")
        if result is None:
            raise Refused(
                "validate",
                "missing",
                "Object missing required field " + ("status" if event.function_name is None else "result"),
                "$",
            )
        told: FunctionResult = _result.decode(result)
        status = "failed" if told.success == _FALSE else "success"
        output = output or result
        error = error or text_of(told.error)
    ts = event_time(event, message)
    user = user_uuid(event.user_id, "$.userId")
    project = user_uuid(event.project_id, "$.projectId")
    identity = _identity(event, message)
    key, new = batch.claim(identity)
    if not new:
        return
    batch.stored += 1
    batch.row(
        rows.FUNCTION_CALLS,
        (
            key,
            route.session_id,
            event.call_id or identity or f"{batch.stream}:{message.sequence}",
            event.name or event.function_name,
            ts,
            event.duration_ms,
            status,
            error,
            given(event.args),
            output,
            user,
            project,
            message.sequence,
        ),
    )


def _telemetry_data(event: Telemetry, payload: bytes | Raw, known: bool) -> bytes:
    """`data`, and beside its own fields those that have no column, unless all are `known` to have one."""
    _check_owner(event)
    data = json_object(event.data, "$.data")
    if data is None:
        raise Refused("validate", "wrong_type", "Expected object, got null", "$.data")
    if known:
        return data
    return _encode(other_fields(payload, _TELEMETRY) | _fields.decode(data))


def _telemetry_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Telemetry = _telemetry.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    data = _telemetry_data(event, message.payload, batch.fields.keys() <= _TELEMETRY)
    ts = event_time(event, message)
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.TELEMETRY, (key, route.session_id, event.kind, ts, data))


def _telemetry_elements(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    """One row for each element; a bad one is a dead letter alone, with its index."""
    envelope: TelemetryBatch = _telemetry_batch.decode(message.payload)
    _check_session(envelope, route)
    _check_owner(envelope)
    if not envelope.events:
        raise Refused("validate", "empty", "the batch is empty", "$.events")
    identity = _identity(envelope, message)
    bad = {} if batch.fields else _bad_elements(message.payload, envelope.events)
    alone: dict[str, Raw] | None = None
    stored = False
    dead = len(batch.dead)
    for index, raw in enumerate(envelope.events):
        try:
            if index in bad:
                raise bad[index]
            event: Telemetry = _telemetry.decode(raw)
            data = _telemetry_data(event, raw, _fields.decode(raw).keys() <= _TELEMETRY)
            ts = event_time(event, message) if event.timestamp is not None else event_time(envelope, message)
        except (Refused, msgspec.DecodeError) as error:
            if alone is None:
                fields = _fields.decode(message.payload)
                alone = {name: value for name, value in fields.items() if name in _ENVELOPE}
            batch.refuse(_batch_of_one(message, alone, raw), error, element=index)
            continue
        key, new = batch.claim(event.event_id or (identity and f"{identity}:{index}"))
        if new:
            stored = True
            if key is None:
                batch.settled.add(batch.index)
            batch.row(rows.TELEMETRY, (key, event.session_id or route.session_id, event.kind, ts, data))
    dead = len(batch.dead) - dead
    if stored:
        batch.stored += 1
        batch.partly_dead += dead
    elif dead:
        batch.partly_dead += dead - 1


def _batch_of_one(message: NatsSourceMessage, envelope: dict[str, Raw], element: Raw) -> NatsSourceMessage:
    """The message without its other elements: with them, a batch of bad ones would be kept as often as it has any."""
    payload = _encode(envelope | {"events": [element]})
    return NatsSourceMessage(message.subject, payload, message.sequence, message.stored_at, message.headers)


def _bad_elements(payload: bytes, elements: list[Raw]) -> dict[int, Refused]:
    """Whose fault it is that the payload of a batch was refused.

    Raises:
        Refused: that of none of them.
    """
    bad: dict[int, Refused] = {}
    for index, raw in enumerate(elements):
        try:
            parse_payload(bytes(raw))
        except Refused as why:
            bad[index] = why
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad[index] = explain(error)
    if not bad:
        parse_payload(payload)
    return bad


def _usage_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Usage = _usage.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    _check_owner(event)
    if isinstance(batch.fields.get("costEstimate"), str):  # a Decimal may be one, the contract's number not
        raise Refused("validate", "wrong_type", "Expected number, got str", "$.costEstimate")
    cost = event.cost_estimate
    if not cost.is_finite() or not 0 <= cost < _MAX_COST:
        raise Refused(
            "validate",
            "out_of_range",
            f"costEstimate {cost} is not between 0 and 999999.999999",
            "$.costEstimate",
        )
    ts = event_time(event, message)
    user = user_uuid(event.user_id, "$.userId")
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        batch.row(
            rows.USAGE,
            (
                key,
                route.session_id,
                ts,
                event.model,
                event.tokens_prompt,
                event.tokens_completion,
                str(cost),
                user,
            ),
        )


def _preview_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Preview = _preview.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    _check_owner(event)
    status: str | None = event.status
    if status is None:
        if event.type is None:
            raise Refused("validate", "missing", "Object missing required field status (or type)", "$")
        status = PREVIEW_STATUS.get(event.type.replace("preview_", "preview.", 1).removeprefix("preview."))
        if status is None:
            raise Refused("validate", "unknown_value", f"unknown preview type {event.type[:50]!r}", "$.type")
    elif event.engine is None and event.type is None:
        raise Refused("validate", "missing", "Object missing required field engine", "$")
    ts = event_time(event, message)
    meta = json_object(event.meta, "$.meta")
    if not batch.fields.keys() <= _PREVIEW:
        meta = _encode(other_fields(message.payload, _PREVIEW) | (_fields.decode(meta) if meta else {}))
    row = _event_row(event.type, event, ts, route, event.payload, message) if event.type else None
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        engine = event.engine or route.engine
        batch.row(rows.PREVIEWS, (key, route.session_id, engine, ts, status, event.frame_ref, meta or b"{}"))
        if row:
            batch.row(rows.EVENTS, (key, *row))


def _runtime_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Runtime = _runtime.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    ts = event_time(event, message)
    row = _event_row(event.type, event, ts, route, event.payload, message)
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.EVENTS, (key, *row))
        if event.script_name is not None and event.script_content is not None:
            script = (key, route.session_id, event.script_name, event.script_content, event.prompt, ts)
            batch.row(rows.GENERATED_SCRIPTS, script)


def _build_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    event: Build = _build.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    type_ = f"build_{route.step}"
    if event.type is not None and event.type != type_:
        raise Refused(
            "validate",
            "unknown_value",
            f"type {event.type[:50]!r} contradicts the subject's {type_!r}",
            "$.type",
        )
    status = BUILD_STATUS[route.step]
    if status == "building" and event.status is not None:
        status = event.status
    ts = event_time(event, message)
    row = _event_row(type_, event, ts, route, event.payload, message)
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.BUILD_JOBS, (key, event.job_id, route.session_id, event.target, status, ts))
        batch.row(rows.EVENTS, (key, *row))


def _plain_event(batch: _Batch, route: Route, message: NatsSourceMessage) -> None:
    """Delta, error and any other event: a row of `spark_events` and nothing else."""
    decoder, implied = _PLAIN[route.kind]
    event: Delta | ConnectionFailure | Other = decoder.decode(message.payload)
    if event.session_id != route.session_id:
        _check_session(event, route)
    if isinstance(event, Delta) and json_object(event.delta, "$.delta") is None:
        raise Refused("validate", "wrong_type", "Expected object, got null", "$.delta")
    ts = event_time(event, message)
    row = _event_row(event.type or implied, event, ts, route, event.payload, message)
    key, new = batch.claim(_identity(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.EVENTS, (key, *row))


_PLAIN: Final[dict[Kind, tuple[msgspec.json.Decoder[Any], str]]] = {
    Kind.DELTA: (msgspec.json.Decoder(Delta), "delta"),
    Kind.ERROR: (msgspec.json.Decoder(ConnectionFailure), "connection_error"),
    Kind.OTHER: (msgspec.json.Decoder(Other), ""),
}
_HANDLERS: Final[dict[Kind, _Handler]] = {
    Kind.DLQ: _undeliverable,
    Kind.CONNECTED: _session_event,
    Kind.DISCONNECTED: _session_event,
    Kind.FUNCTION_CALL: _call,
    Kind.TELEMETRY: _telemetry_event,
    Kind.TELEMETRY_BATCH: _telemetry_elements,
    Kind.USAGE: _usage_event,
    Kind.PREVIEW: _preview_event,
    Kind.RUNTIME: _runtime_event,
    Kind.BUILD: _build_event,
    Kind.DELTA: _plain_event,
    Kind.ERROR: _plain_event,
    Kind.OTHER: _plain_event,
}


def refused_by_store(source: NatsBatch, sqlstate: str, reason: str) -> Outcomes:
    """The outcome of the only message of a batch when PostgreSQL does not take it."""
    letter = DeadLetter(source.messages[0], "store", sqlstate, f"PostgreSQL refused it: {reason}")
    return Outcomes(source, {}, [], [], [letter], [0], set(), set(), dead_messages=1)
