"""Messages that must become dead letters: what is wrong, and what is said of it."""

from typing import Any, NamedTuple

import msgspec

from tests.support.messages import header_block

USAGE = "spark.usage.s"
TELEMETRY = "spark.telemetry.s"
BATCH = "spark.telemetry.batch.s"
CALL = "spark.function_call.s"
NEIGHBOUR = b'{"model":"neighbour"}'
"""A good message of `spark.usage.*`, whatever stands beside it."""


class Bad(NamedTuple):
    """A message that must become a dead letter, and how."""

    subject: str | bytes
    payload: bytes
    stage: str
    code: str
    reason: str
    headers: bytes = b""


def usage(fields: bytes, subject: str = USAGE) -> tuple[str, bytes]:
    return subject, b'{"model":"m",' + fields + b"}"


def data(value: bytes) -> tuple[str, bytes]:
    return TELEMETRY, b'{"kind":"k","data":{"x":' + value + b"}}"


def sent(subject: str, **fields: Any) -> tuple[str, bytes]:
    return subject, msgspec.json.encode(fields)


REFUSED = [
    Bad(USAGE, b"", "decode", "empty", "no body"),
    Bad(USAGE, b'{"model":', "decode", "not_json", "not JSON"),
    Bad(USAGE, b"Hello", "decode", "not_json", "not JSON"),
    Bad(USAGE, b"\0", "decode", "not_json", "not JSON"),
    Bad(USAGE, b'{"model":"m"}\0', "decode", "not_json", "not JSON"),
    Bad(USAGE, b'{"model":"a\0b"}', "decode", "not_json", "not JSON"),
    Bad(USAGE, b'["m"]', "decode", "not_object", "an array"),
    Bad(USAGE, b"null", "decode", "not_object", "null"),
    Bad(USAGE, b'{"model":"\xff\xfe"}', "decode", "not_utf8", "not UTF-8"),
    Bad(USAGE, b'{"model":"\xed\xa0\x80"}', "decode", "not_utf8", "not UTF-8"),
    Bad(*data(b"NaN"), "decode", "not_json", "not JSON"),
    Bad(*data(b"-Infinity"), "decode", "not_json", "not JSON"),
    Bad(*data(b'"\\ud800 alone"'), "decode", "not_json", "surrogate"),
    Bad(*data(b'"\\udc00 alone"'), "decode", "not_json", "surrogate"),
    Bad(*data(b"1e400"), "validate", "out_of_range", "double"),
    Bad(*data(b"-1e400"), "validate", "out_of_range", "double"),
    Bad(*data(b"9" * 5000), "validate", "out_of_range", "double"),
    Bad(*data(b"1e-20000"), "validate", "out_of_range", "decimal places"),
    Bad(*data(b"0." + b"1" * 20_000), "validate", "out_of_range", "decimal places"),
    Bad(*data(b'"\\u0000"'), "validate", "nul", "NUL"),
    Bad(*data(b'{"\\u0000":1}'), "validate", "nul", "NUL"),
    Bad(*usage(b'"model":"a\\u0000b"'), "validate", "nul", "NUL"),
    Bad(*data(b"[" * 10_000 + b"]" * 10_000), "decode", "too_deep", "256 levels"),
    Bad(*data(b'{"x":' * 10_000 + b"1" + b"}" * 10_000), "decode", "too_deep", "256 levels"),
    Bad(USAGE, b"[" * 1_000_000, "decode", "too_deep", "256 levels"),
    Bad(USAGE, b"[" * 300 + b'"' + b'\\"' * 500_000, "decode", "too_deep", "256 levels"),
    Bad(*sent(USAGE), "validate", "missing", "model"),
    Bad(*usage(b'"tokensPrompt":-1'), "validate", "out_of_range", ">= 0"),
    Bad(*usage(b'"tokensPrompt":2147483648'), "validate", "out_of_range", "2147483647"),
    Bad(*usage(b'"tokensPrompt":' + b"9" * 400), "validate", "out_of_range", "2147483647"),
    Bad(*usage(b'"tokensPrompt":1.5'), "validate", "wrong_type", "int"),
    Bad(*usage(b'"costEstimate":-0.000001'), "validate", "out_of_range", "between 0"),
    Bad(*usage(b'"costEstimate":999999.9999995'), "validate", "out_of_range", "between 0"),
    Bad(*usage(b'"costEstimate":' + b"9" * 400), "validate", "out_of_range", "between 0"),
    Bad(*usage(b'"costEstimate":"1"'), "validate", "wrong_type", "number"),
    Bad(*usage(b'"sessionId":"other"'), "validate", "session", "contradicts"),
    Bad(*usage(b'"sessionId":""'), "validate", "out_of_range", "length"),
    Bad(*usage(b'"eventId":""'), "validate", "out_of_range", "length"),
    Bad(*usage(b'"userId":"me"'), "validate", "wrong_type", "UUID"),
    Bad(*usage(b'"userId":"6f1c2a4e-58f1-4d0c-9a59-3b7f_f0c1d11"'), "validate", "wrong_type", "UUID"),
    Bad(*usage(b'"timestamp":1577836799999'), "validate", "event_time", "before 2020"),
    Bad(*usage(b'"timestamp":4102444800000'), "validate", "event_time", "5 minutes ahead"),
    Bad(*usage(b'"timestamp":' + b"9" * 400), "validate", "event_time", "5 minutes ahead"),
    Bad(*usage(b'"timestamp":"2026-03-01"'), "validate", "wrong_type", "str"),
    Bad(*sent(CALL, name="n", status="ok"), "validate", "unknown_value", "'ok'"),
    Bad(*sent(CALL, name="n", status="x" * 1_000_000), "validate", "unknown_value", "'xxx"),
    Bad(*sent(CALL, callId="", name="n", status="failed"), "validate", "out_of_range", "length"),
    Bad(*sent(CALL, name="n", status="failed", durationMs=2**31), "validate", "out_of_range", "2147483647"),
    Bad(*sent(TELEMETRY, kind="k", data=[60]), "validate", "wrong_type", "an array"),
    Bad(*sent("spark.session.connected.s", mode="wild"), "validate", "unknown_value", "'wild'"),
    Bad(*sent("spark.preview.unity.frame.s", type="preview.paused"), "validate", "unknown_value", "paused"),
    Bad(*sent("spark.preview.unreal.frame.s", type="preview.frame"), "subject", "unknown_value", "'unreal'"),
    Bad(*sent("spark.build.unity.paused.s", jobId="j"), "subject", "unknown_value", "'paused'"),
    Bad(
        *sent("spark.build.unity.failed.s", jobId="j", type="build_started"), "validate", "unknown_value", "contradicts"
    ),
    Bad(*sent("spark.delta.s", delta=None), "validate", "wrong_type", "null"),
    Bad(*sent("spark.presence.s", type="t" * 256), "validate", "out_of_range", "255"),
    Bad(*sent("spark." + "s" * 256, type="t"), "subject", "too_long", "256 characters"),
    Bad(*sent(BATCH, events=[]), "validate", "empty", "the batch is empty"),
    Bad(*sent(BATCH, events=7), "validate", "wrong_type", "array"),
    Bad(USAGE, NEIGHBOUR, "validate", "identity", "not UTF-8", header_block({"Nats-Msg-Id": b"\xff\xfe"})),
    Bad(USAGE, NEIGHBOUR, "validate", "identity", "255", header_block({"Nats-Msg-Id": "x" * 256})),
    Bad(USAGE, NEIGHBOUR, "validate", "identity", "NUL", header_block({"Nats-Msg-Id": b"a\0b"})),
    Bad(USAGE, NEIGHBOUR, "validate", "event_time", "ahead", header_block({"Slate-Event-Time": "9" * 15})),
    Bad(USAGE, NEIGHBOUR, "validate", "event_time", "2020", header_block({"Slate-Event-Time": "0"})),
    # Nothing in the contract forbids this zero, but PostgreSQL cannot hold it.
    Bad(*data(b"0e1073741824"), "store", "22003", "PostgreSQL refused it: value overflows numeric format"),
    Bad(
        *(BATCH, b'{"events":[{"kind":"k","data":{}},{"kind":"k","data":{"x":0e1073741824}}]}'),
        *("store", "22003", "PostgreSQL refused it: value overflows numeric format"),
    ),
]
"""Each way in which a message is refused, on one partition."""
REFUSED_SUBJECTS = [
    Bad(b"spark.a\xffb", b"", "subject", "not_utf8", "not UTF-8"),
    Bad(b"spark.\xc0\x80", b"", "subject", "not_utf8", "not UTF-8"),
    Bad(b"spark.a\0b", b"", "subject", "nul", "NUL"),
    Bad(b"spark." + b"s" * 256, b"", "subject", "too_long", "256 characters"),
    Bad(b"spark." + b"s" * 3900, b"", "subject", "too_long", "3900 characters"),
    Bad(b"spark.preview.\xe8\xaf\xad.frame.s", b"", "subject", "unknown_value", "unknown engine"),
]
"""Subjects that a session cannot have, with any payload."""
