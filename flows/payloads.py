"""How a payload is read: what every message must be, and the pieces that the kinds of message share. Pure."""

import re
from math import isinf
from typing import Final

import msgspec
from msgspec import Raw, ValidationError

from connectors.messages import NatsSourceMessage, header_key
from flows.events import (
    EARLIEST_MS,
    EVENT_TIME_HEADER,
    MAX_AHEAD_MS,
    MAX_DEPTH,
    MAX_PAYLOAD,
    MAX_SCALE,
    Envelope,
    Refused,
    uuid_bytes,
)

_fields = msgspec.json.Decoder(dict[str, Raw])
_text = msgspec.json.Decoder(str)
_NUL_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Possessive, and an unfinished string ends it: no text can make it start over.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NULL: Final = b"null"
_AT: Final = " - at `"
_EVENT_TIME: Final = header_key(EVENT_TIME_HEADER)


def explain(error: Exception) -> Refused:
    """A decoder's error in a person's words, with the path it names."""
    text = str(error)
    if isinstance(error, ValidationError):
        before, found, path = text.rpartition(_AT)  # an unknown value is quoted, and may hold anything
        reason, path = (before, path) if found else (text, "")
        if reason.startswith("Object missing required"):
            code = "missing"
        elif reason.startswith("Invalid enum value"):
            code = "unknown_value"
        elif " of length " in reason or " >= " in reason or " <= " in reason:
            code = "out_of_range"
        else:
            code = "wrong_type"
        return Refused("validate", code, reason.replace("`", ""), path.rstrip("`") or "$")
    if isinstance(error, UnicodeDecodeError):
        return Refused("decode", "not_utf8", "not UTF-8")
    if isinstance(error, msgspec.DecodeError):
        text = text.replace("JSON is malformed", "not JSON")
        return Refused("decode", "not_json", text.replace("Input data was truncated", "not JSON: it ends too early"))
    if isinstance(error, RecursionError):
        return Refused("decode", "too_deep", f"nested deeper than {MAX_DEPTH} levels")
    return Refused("validate", "unexpected", f"{type(error).__name__}: {text[:500]}")


def parse_payload(payload: bytes) -> dict[str, object]:
    """The fields of a payload, for looking at; columns take theirs from the models and the raw bytes.

    Raises:
        Refused: it is no JSON object that PostgreSQL and every reader can hold.
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is not JSON; `explain` says how.
    """
    size = len(payload)
    if not size:
        raise Refused("decode", "empty", "the message has no body")
    if size > MAX_PAYLOAD:
        raise Refused("decode", "too_large", f"the payload has {size} bytes, more than 1 MiB")
    if size > 2 * MAX_DEPTH and payload.count(b"[") + payload.count(b"{") > MAX_DEPTH:
        _check_depth(payload)
    try:
        value = _json.decode(payload)
    except ValidationError as error:
        reason, _, path = str(error).partition(_AT)
        reason = reason.replace("Integer value out of range", "a number is outside the range of a double")
        raise Refused("validate", "out_of_range", reason, path.rstrip("`").replace("[...]", ".*")) from None
    if type(value) is not dict:
        raise Refused("decode", "not_object", f"not a JSON object but {_kind_of(value)}")
    if 0x5C in payload and _NUL_ESCAPE.search(payload):
        raise Refused("validate", "nul", "a text holds a NUL character, which PostgreSQL cannot store")
    return value


def _check_depth(payload: bytes) -> None:
    depth = 0
    for byte in _STRING.sub(b"", payload):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused("decode", "too_deep", f"nested deeper than {MAX_DEPTH} levels")
        elif byte in b"]}":
            depth -= 1


def _check_number(text: str) -> float:
    """Refuse a number that jsonb, or a reader whose numbers are doubles, cannot hold. Its value is not needed."""
    if len(text) > _PLAIN_DIGITS or "e" in text or "E" in text:
        if isinf(float(text)):
            raise ValueError("a number is outside the range of a double")
        digits, _, exponent = text.lower().partition("e")
        if len(digits.partition(".")[2]) - int(exponent[:9] or 0) > MAX_SCALE:
            raise ValueError(f"a number has more than {MAX_SCALE:,} decimal places")
    return 0.0


_PLAIN_DIGITS: Final = 300
_json = msgspec.json.Decoder(float_hook=_check_number)


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"


def given(raw: Raw) -> bytes | None:
    """The bytes of a JSON value; None for an absent field and for `null`."""
    data = bytes(raw)
    return None if not data or data == _NULL else data


def json_object(raw: Raw, path: str) -> bytes | None:
    """The bytes of a JSON object; None for an absent field and for `null`.

    Raises:
        Refused: it is something else.
    """
    data = given(raw)
    if data is not None and data[0] != 0x7B:
        raise Refused("validate", "wrong_type", f"Expected object, got {_kind_of(_json.decode(data))}", path)
    return data


def text_of(raw: Raw) -> str | None:
    """A text column's value: a JSON string's content, any other value as JSON."""
    data = given(raw)
    if data is None:
        return None
    return _text.decode(data) if data[0] == 0x22 else data.decode()


def other_fields(payload: bytes | Raw, known: frozenset[str]) -> dict[str, Raw]:
    """The fields of an object that have no column, in their order."""
    fields: dict[str, Raw] = _fields.decode(payload)
    for name in known & fields.keys():
        del fields[name]
    return fields


def user_uuid(text: str | None, path: str) -> bytes | None:
    """The 16 bytes of a UUID field.

    Raises:
        Refused: it is not one.
    """
    if text is None:
        return None
    try:
        return uuid_bytes(text)
    except ValueError:
        raise Refused("validate", "wrong_type", f"{text[:50]!r} is not a UUID", path) from None


def jetstream_time(message: NatsSourceMessage) -> int:
    """When JetStream stored a message, epoch milliseconds; of a replayed dead letter, when it stored the original."""
    replayed = message.header(_EVENT_TIME) if message.headers else None
    return int(replayed[:15]) if replayed and replayed.isdigit() else message.stored_at // 1_000_000


def event_time(event: Envelope, message: NatsSourceMessage) -> int:
    """Event time in microseconds since 1970. The clock it is held against is JetStream's, so a replay agrees."""
    at = event.timestamp
    if at is None:
        at = jetstream_time(message)
        if at == message.stored_at // 1_000_000:
            return message.stored_at // 1000
    if at < EARLIEST_MS:
        raise Refused(
            "validate",
            "event_time",
            f"event time {at} is before 2020 (it counts milliseconds)",
            "$.timestamp",
        )
    if at > message.stored_at // 1_000_000 + MAX_AHEAD_MS:
        raise Refused("validate", "event_time", f"event time {at} is more than 5 minutes ahead", "$.timestamp")
    return round(at * 1000)
