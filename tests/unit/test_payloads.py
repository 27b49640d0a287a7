"""What every payload must be, and the pieces that the kinds of message share."""

import json
import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from flows.events import EARLIEST_MS, EVENT_TIME_HEADER, MAX_AHEAD_MS, MAX_DEPTH, MAX_PAYLOAD, Envelope, Refused
from flows.payloads import event_time, explain, json_object, other_fields, parse_payload, text_of
from tests.support.messages import AT_MS, AT_US, STORED_US, message

STORED_MS = STORED_US // 1000
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


def refused(payload: bytes) -> Refused:
    """What is wrong with a payload, as the validation would tell it."""
    try:
        parse_payload(payload)
    except Refused as error:
        return error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return explain(error)
    pytest.fail(f"accepted: {payload[:100]!r}")


def with_value(value: bytes) -> bytes:
    return b'{"x":' + value + b"}"


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", "empty", "the message has no body"),
        (b" " * (MAX_PAYLOAD + 1), "too_large", "the payload has 1048577 bytes, more than 1 MiB"),
        (b"Hello", "not_json", "not JSON: invalid character (byte 0)"),
        (b'{"x":1', "not_json", "not JSON: it ends too early"),
        (b'{"x":1}x', "not_json", "not JSON: trailing characters"),
        (b'{"x":1}\0', "not_json", "not JSON: trailing characters"),
        (b"{'x':1}", "not_json", "not JSON: object keys must be strings (byte 1)"),
        (b'\xef\xbb\xbf{"x":1}', "not_json", "not JSON: invalid character (byte 0)"),
        (with_value(b"NaN"), "not_json", "not JSON: invalid character (byte 5)"),
        (with_value(b"-Infinity"), "not_json", "not JSON: invalid character (byte 6)"),
        (with_value(b"01"), "not_json", "not JSON: invalid number (byte 6)"),
        (with_value(b'"\0"'), "not_json", "not JSON: invalid character (byte 6)"),
        (with_value(b'"\n"'), "not_json", "not JSON: invalid character (byte 6)"),
        (with_value(b'"\\ud800 and more"'), "not_json", "not JSON: unexpected end of escaped utf-16 surrogate pair"),
        (with_value(b'"\\udc00 and more"'), "not_json", "not JSON: invalid utf-16 surrogate pair"),
        (with_value(b'"\\ud83d\\u0041"'), "not_json", "not JSON: invalid utf-16 surrogate pair"),
        (with_value(b'"\xff"'), "not_utf8", "not UTF-8"),
        (with_value(b'"\xed\xa0\x80"'), "not_utf8", "not UTF-8"),
        (with_value(b'"\xc0\x80"'), "not_utf8", "not UTF-8"),
        (b'{"\xff":1}', "not_utf8", "not UTF-8"),
        (b"null", "not_object", "not a JSON object but null"),
        (b"true", "not_object", "not a JSON object but a boolean"),
        (b"1.5", "not_object", "not a JSON object but a number"),
        (b'"x"', "not_object", "not a JSON object but a string"),
        (b'[{"x":1}]', "not_object", "not a JSON object but an array"),
        (b"[" * 10_000 + b"]" * 10_000, "too_deep", "nested deeper than 256 levels"),
        (b'{"x":' * 10_000 + b"1" + b"}" * 10_000, "too_deep", "nested deeper than 256 levels"),
        (b"[" * MAX_PAYLOAD, "too_deep", "nested deeper than 256 levels"),
    ],
)
def test_what_is_not_a_json_object_is_refused_in_words(payload: bytes, code: str, reason: str) -> None:
    refusal = refused(payload)
    assert (refusal.stage, refusal.code, refusal.path) == ("decode", code, "")
    assert refusal.reason.startswith(reason)


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        (b"1e400", "out_of_range", "outside the range of a double"),
        (b"-1e400", "out_of_range", "outside the range of a double"),
        (b"[0.1,[1e309]]", "out_of_range", "outside the range of a double"),
        (b"9" * 5000, "out_of_range", "outside the range of a double"),
        (b"1e-16384", "out_of_range", "more than 16,383 decimal places"),
        (b"1.5E-16383", "out_of_range", "more than 16,383 decimal places"),
        (b"1e-" + b"9" * 5000, "out_of_range", "more than 16,383 decimal places"),
        (b"1e-99999999999999999999", "out_of_range", "more than 16,383 decimal places"),
        (b'"e-1",1e-20000,"e-2"'.join((b"[", b"]")), "out_of_range", "more than 16,383 decimal places"),
        (b"0." + b"1" * 16_384, "out_of_range", "more than 16,383 decimal places"),
        (b"0." + b"1" * 15_999 + b"e-385", "out_of_range", "more than 16,383 decimal places"),
        (b'"a\\u0000b"', "nul", "a text holds a NUL character, which PostgreSQL cannot store"),
        (b'"\\\\\\u0000"', "nul", "a text holds a NUL character, which PostgreSQL cannot store"),
        (b'{"deep":[{"key\\u0000":1}]}', "nul", "a text holds a NUL character, which PostgreSQL cannot store"),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_refused_in_words(value: bytes, code: str, reason: str) -> None:
    refusal = refused(with_value(value))
    assert (refusal.stage, refusal.code) == ("validate", code)
    assert reason in refusal.reason


@pytest.mark.parametrize(
    "value",
    [
        b"0.1234567890123456789",
        b"12345678901234567890",
        b"-0.0",
        b"1e308",
        b"4.9e-324",
        b"1e-400",
        b"1e-16383",
        b"0." + b"1" * 16_383,
        b"0." + b"1" * 16_384 + b"e1",
        b"9" * 400,
        b'"1e-20000"',
        b'"6f1c2a4e-5821-4d0c-9a5e-34567f0c1d11"',
        b'"\\\\u0000"',
        b'"\\u0001\x7f\\ud83d\\ude00"',
        "[\u2028\ufffe\U0010ffff]".encode().join((b'"', b'"')),
        b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1),
        b'"' + b"[" * 10_000 + b'"',
        b'"' + b'\\"[{' * 10_000 + b'"',
        b"[" + b"[]," * 10_000 + b"[]]",
        b'"' + b"x" * (MAX_PAYLOAD - 8) + b'"',
    ],
)
def test_what_postgresql_can_hold_is_accepted(value: bytes) -> None:
    assert parse_payload(with_value(value)).keys() == {"x"}


@given(st.dictionaries(st.text(st.characters()), JSON_VALUES))
def test_any_object_of_json_is_accepted_unless_it_holds_a_nul_or_half_a_character(value: dict[str, Any]) -> None:
    for escaped in (True, False) if encodable(value) else (True,):
        text = json.dumps(value, ensure_ascii=escaped)
        payload = text.encode()
        if any(math.isinf(number) for number in numbers(value)) or not encodable(json.loads(text)):
            assert refused(payload).code == "not_json"
        elif "\\u0000" in text.replace("\\\\", ""):
            assert refused(payload).code == "nul"
        else:
            assert parse_payload(payload).keys() == json.loads(text).keys()


def encodable(value: object) -> bool:
    """Whether a value holds no half of a surrogate pair."""
    try:
        return bool(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def numbers(value: object) -> list[float]:
    match value:
        case float():
            return [value]
        case list():
            return [number for one in value for number in numbers(one)]
        case dict():
            return [number for one in value.values() for number in numbers(one)]
    return []


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 300 + b'"' + b'\\"' * 500_000,
        b"[" * 300 + b'"' * 1_000_000,
        b"[" * 300 + b'"' + b"\\" * 1_000_000,
        with_value(b"[" + b"[]," * 340_000 + b"[]]"),
        with_value(b'"' + b"\\\\" * 500_000 + b'"'),
        with_value(b"[" + b"1e-1000," * 130_000 + b"1]"),
        with_value(b"[" + (b"1" * 4000 + b",") * 260 + b"1]"),
    ],
    ids=["open string of quotes", "quotes", "backslashes", "brackets", "escapes", "small numbers", "long numbers"],
)
def test_no_payload_takes_longer_to_judge_than_its_size_explains(payload: bytes) -> None:
    started = time.process_time()
    for _ in range(2):
        try:
            parse_payload(payload)
        except (Refused, msgspec.DecodeError):
            continue
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (b"", None),
        (b"null", None),
        (b'"text"', "text"),
        (b'""', ""),
        (b'"\\"quoted\\" \\u00fc\\n"', '"quoted" ü\n'),
        (b"7", "7"),
        (b"0.10", "0.10"),
        (b'{"code": 7}', '{"code": 7}'),
    ],
)
def test_a_text_column_takes_a_string_as_it_is_and_anything_else_as_json(value: bytes, column: str | None) -> None:
    assert text_of(Raw(value)) == column


def test_a_json_column_takes_an_object_and_refuses_anything_else() -> None:
    assert json_object(Raw(b'{"a":0.10}'), "$.meta") == b'{"a":0.10}'
    assert json_object(Raw(b"null"), "$.meta") is None
    assert json_object(Raw(), "$.meta") is None
    for value, kind in ((b"[1]", "an array"), (b'"x"', "a string"), (b"7", "a number"), (b"false", "a boolean")):
        with pytest.raises(Refused) as caught:
            json_object(Raw(value), "$.meta")
        assert (caught.value.code, caught.value.reason, caught.value.path) == (
            "wrong_type",
            f"Expected object, got {kind}",
            "$.meta",
        )


def test_unknown_fields_keep_their_order_and_their_bytes() -> None:
    payload = b'{"b":0.1234567890123456789,"type":"t","a": [1, 2],"sessionId":"s"}'
    fields = other_fields(payload, frozenset(("type", "sessionId")))
    assert [(name, bytes(raw)) for name, raw in fields.items()] == [("b", b"0.1234567890123456789"), ("a", b"[1, 2]")]


def timed(timestamp: bytes, headers: dict[str, str | bytes] | None = None) -> int:
    event = msgspec.json.decode(b'{"timestamp":' + timestamp + b"}", type=Envelope)
    return event_time(event, message("spark.usage.s", b"{}", headers))


@pytest.mark.parametrize(
    ("timestamp", "micros"),
    [
        (b"%d" % AT_MS, AT_US),
        (b"%d.125" % AT_MS, AT_US + 125),
        (b"%d.001" % AT_MS, AT_US + 1),
        (b"%d.999" % AT_MS, AT_US + 999),
        (b"%d.0" % AT_MS, AT_US),
        (b"1.741964966535e12", AT_US),
        (b"%d" % EARLIEST_MS, EARLIEST_MS * 1000),
        (b"%d" % (STORED_MS + MAX_AHEAD_MS), STORED_US + MAX_AHEAD_MS * 1000),
        (b"null", STORED_US),
    ],
)
def test_event_time_is_exact_to_the_microsecond(timestamp: bytes, micros: int) -> None:
    assert timed(timestamp) == micros


@given(st.integers(EARLIEST_MS, STORED_MS), st.integers(0, 999))
def test_microseconds_survive_as_the_fraction_of_a_millisecond(millis: int, micros: int) -> None:
    assert timed(b"%d.%03d" % (millis, micros)) == millis * 1000 + micros


def test_an_event_without_a_time_takes_that_of_jetstream_or_of_its_first_delivery() -> None:
    assert timed(b"null") == STORED_US
    assert timed(b"null", {EVENT_TIME_HEADER: str(AT_MS)}) == AT_US
    assert timed(b"%d" % (AT_MS + 1), {EVENT_TIME_HEADER: str(AT_MS)}) == AT_US + 1000
    for nonsense in ("", "-1", "yesterday", "1.5", "\u0661"):
        assert timed(b"null", {EVENT_TIME_HEADER: nonsense}) == STORED_US


@pytest.mark.parametrize(
    ("millis", "reason"),
    [
        (b"%d" % (EARLIEST_MS - 1), "event time 1577836799999 is before 2020 (it counts milliseconds)"),
        (b"1741964966", "event time 1741964966 is before 2020 (it counts milliseconds)"),
        (b"-1", "event time -1 is before 2020 (it counts milliseconds)"),
        (b"%d" % (STORED_MS + MAX_AHEAD_MS + 1), f"event time {STORED_MS + MAX_AHEAD_MS + 1} is more than 5 minutes"),
        (b"99999999999999999999", "event time 99999999999999999999 is more than 5 minutes ahead"),
        (b"1e308", "event time 1e+308 is more than 5 minutes ahead"),
    ],
)
def test_a_time_before_2020_or_ahead_of_jetstream_is_refused(millis: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        timed(millis)
    assert (caught.value.stage, caught.value.code, caught.value.path) == ("validate", "event_time", "$.timestamp")
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize("millis", ["0", "999999999999999", "9" * 4000])
def test_the_time_of_a_first_delivery_has_the_same_limits(millis: str) -> None:
    with pytest.raises(Refused) as caught:
        timed(b"null", {EVENT_TIME_HEADER: millis})
    assert caught.value.code == "event_time"


def test_an_error_that_nobody_foresaw_is_told_with_its_name() -> None:
    refusal = explain(ZeroDivisionError("by zero"))
    assert (refusal.stage, refusal.code, refusal.reason) == ("validate", "unexpected", "ZeroDivisionError: by zero")
