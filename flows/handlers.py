"""A handler for each kind of message but telemetry: decodes the payload, checks what models cannot say, adds rows."""

from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Raw

from connectors.messages import NatsSourceMessage
from flows import rows
from flows.collect import ENVELOPE, Collected, Handler, check_owner, check_session, identity_of
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
    Preview,
    Refused,
    Route,
    Runtime,
    Session,
    Usage,
)
from flows.payloads import event_time, given, json_object, other_fields, text_of, user_uuid
from flows.telemetry import telemetry_elements, telemetry_event

_session = msgspec.json.Decoder(Session)
_function_call = msgspec.json.Decoder(FunctionCall)
_result = msgspec.json.Decoder(FunctionResult)
_usage = msgspec.json.Decoder(Usage)
_preview = msgspec.json.Decoder(Preview)
_runtime = msgspec.json.Decoder(Runtime)
_build = msgspec.json.Decoder(Build)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

_EVENT: Final = ENVELOPE | {"type"}
_SESSION: Final = _EVENT | {"model", "mode"}
_PREVIEW: Final = _EVENT | {"engine", "status", "frameRef", "meta"}
_MAX_COST: Final = Decimal("999999.9999995")
_FALSE: Final = Raw(b"false")


def undeliverable(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
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


def _session_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: Session = _session.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    connected = route.kind is Kind.CONNECTED
    type_ = "connected" if connected else "disconnected"
    if event.type is not None and event.type != type_:
        raise Refused("validate", "unknown_value", f"type {event.type!r} contradicts the subject's {type_!r}", "$.type")
    ts = event_time(event, message)
    row = _event_row(type_, event, ts, route, event.payload, message)
    others = other_fields(message.payload, _SESSION) if connected else None
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        times = (ts, None) if connected else (None, ts)
        meta = _encode(others) if others else None
        user = user_uuid(event.user_id, "$.userId")
        batch.row(rows.SESSIONS, (key, route.session_id, *times, user, event.model, event.mode, meta))
        batch.row(rows.EVENTS, (key, *row))


def _call(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: FunctionCall = _function_call.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
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
    identity = identity_of(event, message)
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


def _usage_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: Usage = _usage.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    check_owner(event)
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
    key, new = batch.claim(identity_of(event, message))
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


def _preview_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: Preview = _preview.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    check_owner(event)
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
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        engine = event.engine or route.engine
        batch.row(rows.PREVIEWS, (key, route.session_id, engine, ts, status, event.frame_ref, meta or b"{}"))
        if row:
            batch.row(rows.EVENTS, (key, *row))


def _runtime_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: Runtime = _runtime.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    ts = event_time(event, message)
    row = _event_row(event.type, event, ts, route, event.payload, message)
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.EVENTS, (key, *row))
        if event.script_name is not None and event.script_content is not None:
            script = (key, route.session_id, event.script_name, event.script_content, event.prompt, ts)
            batch.row(rows.GENERATED_SCRIPTS, script)


def _build_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    event: Build = _build.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
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
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.BUILD_JOBS, (key, event.job_id, route.session_id, event.target, status, ts))
        batch.row(rows.EVENTS, (key, *row))


def _plain_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    """Delta, error and any other event: a row of `spark_events` and nothing else."""
    decoder, implied = _PLAIN[route.kind]
    event: Delta | ConnectionFailure | Other = decoder.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    if isinstance(event, Delta) and json_object(event.delta, "$.delta") is None:
        raise Refused("validate", "wrong_type", "Expected object, got null", "$.delta")
    ts = event_time(event, message)
    row = _event_row(event.type or implied, event, ts, route, event.payload, message)
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.EVENTS, (key, *row))


_PLAIN: Final[dict[Kind, tuple[msgspec.json.Decoder[Any], str]]] = {
    Kind.DELTA: (msgspec.json.Decoder(Delta), "delta"),
    Kind.ERROR: (msgspec.json.Decoder(ConnectionFailure), "connection_error"),
    Kind.OTHER: (msgspec.json.Decoder(Other), ""),
}
HANDLERS: Final[dict[Kind, Handler]] = {
    Kind.DLQ: undeliverable,
    Kind.CONNECTED: _session_event,
    Kind.DISCONNECTED: _session_event,
    Kind.FUNCTION_CALL: _call,
    Kind.TELEMETRY: telemetry_event,
    Kind.TELEMETRY_BATCH: telemetry_elements,
    Kind.USAGE: _usage_event,
    Kind.PREVIEW: _preview_event,
    Kind.RUNTIME: _runtime_event,
    Kind.BUILD: _build_event,
    Kind.DELTA: _plain_event,
    Kind.ERROR: _plain_event,
    Kind.OTHER: _plain_event,
}
"""By kind of message."""
