"""Telemetry, single and in batches: of a batch, each element fares by itself."""

from typing import Final

import msgspec
from msgspec import Raw

from connectors.messages import NatsSourceMessage
from flows import rows
from flows.collect import ENVELOPE, Collected, check_owner, check_session, identity_of
from flows.events import Refused, Route, Telemetry, TelemetryBatch
from flows.payloads import event_time, explain, json_object, other_fields, parse_payload

_telemetry = msgspec.json.Decoder(Telemetry)
_telemetry_batch = msgspec.json.Decoder(TelemetryBatch)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

_TELEMETRY: Final = ENVELOPE | {"kind", "data"}


def _telemetry_data(event: Telemetry, payload: bytes | Raw, known: bool) -> bytes:
    """`data`, and beside its own fields those that have no column, unless all are `known` to have one."""
    check_owner(event)
    data = json_object(event.data, "$.data")
    if data is None:
        raise Refused("validate", "wrong_type", "Expected object, got null", "$.data")
    if known:
        return data
    return _encode(other_fields(payload, _TELEMETRY) | _fields.decode(data))


def telemetry_event(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    """One row."""
    event: Telemetry = _telemetry.decode(message.payload)
    if event.session_id != route.session_id:
        check_session(event, route)
    data = _telemetry_data(event, message.payload, batch.fields.keys() <= _TELEMETRY)
    ts = event_time(event, message)
    key, new = batch.claim(identity_of(event, message))
    if new:
        batch.stored += 1
        batch.row(rows.TELEMETRY, (key, route.session_id, event.kind, ts, data))


def telemetry_elements(batch: Collected, route: Route, message: NatsSourceMessage) -> None:
    """One row for each element; a bad one is a dead letter alone, with its index."""
    envelope: TelemetryBatch = _telemetry_batch.decode(message.payload)
    check_session(envelope, route)
    check_owner(envelope)
    if not envelope.events:
        raise Refused("validate", "empty", "the batch is empty", "$.events")
    identity = identity_of(envelope, message)
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
                alone = {name: value for name, value in fields.items() if name in ENVELOPE}
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
        Refused, msgspec.DecodeError, UnicodeDecodeError: not theirs alone, or that of none of them.
    """
    parse_payload(_encode({name: value for name, value in _fields.decode(payload).items() if name != "events"}))
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
