"""The wire contract's rules as a table of cases: event time, identity and refusals."""

from decimal import Decimal
from typing import Any

from tests.acceptance.contract import ABSENT, Case, JustNow, Like, Message, Row, at

_USAGE = "spark.usage"
_TELEMETRY = "spark.telemetry"


def _stored() -> Row:
    return (at(), "m", 0, 0, Decimal(0))


def _event_time() -> list[Case]:
    return [
        Case(
            "time-unsaid",
            [Message(_USAGE, {"model": "m", "timestamp": ABSENT})],
            usage=[(JustNow(), "m", 0, 0, Decimal(0))],
        ),
        Case(
            "time-unsaid-in-a-batch",
            [
                Message(
                    f"{_TELEMETRY}.batch",
                    {"events": [{"kind": "k", "data": {}}], "timestamp": ABSENT},
                )
            ],
            telemetry=[("k", JustNow(), {})],
        ),
        Case(
            "time-of-any-month",
            [Message("spark.presence", {"type": "p"}, seconds) for seconds in (3_000_000, -3_000_000, 0)],
            events=[("p", at(seconds), None, None, {}) for seconds in (-3_000_000, 0, 3_000_000)],
        ),
    ]


def _identity() -> list[Case]:
    def batch(name: str) -> dict[str, Any]:
        return {
            "events": [
                {"sessionId": name, "kind": "known", "data": {}, "eventId": f"{name}-1"},
                {"sessionId": name, "kind": "unknown", "data": {}},
            ]
        }

    return [
        Case(
            "identity-of-the-payload",
            [Message(_USAGE, {"model": "m", "eventId": "identity-1"}, msg_id=f"identity-{n}") for n in "abc"],
            usage=[_stored()],
        ),
        Case(
            "identity-of-the-message",
            [Message(_USAGE, {"model": "m"}, msg_id="identity-2") for _ in range(3)],
            usage=[_stored()],
        ),
        Case(
            "identity-none",
            [Message(_USAGE, {"model": "m"}) for _ in range(2)],
            usage=[_stored(), _stored()],
        ),
        Case(
            "identity-in-a-batch",
            [Message(f"{_TELEMETRY}.batch", batch("identity-in-a-batch")) for _ in range(2)],
            telemetry=[("known", at(), {}), ("unknown", at(), {}), ("unknown", at(), {})],
        ),
    ]


def _refusals() -> list[Case]:
    call = {"callId": "c", "name": "n", "status": "success"}
    ahead, before = 4_102_444_800_000, 1_577_836_799_999
    refused: list[tuple[str, str, dict[str, Any] | bytes, str, str, str]] = [
        ("not-json", _USAGE, b'{"model":', "decode", "JSON|truncated", ""),
        ("not-utf-8", _USAGE, b'{"model":"\xff"}', "decode", "UTF-8", ""),
        ("no-body", _USAGE, b"", "decode", "no body", ""),
        ("nan", _TELEMETRY, b'{"kind":"k","data":{"fps":NaN}}', "decode", "JSON", ""),
        ("infinite", _TELEMETRY, b'{"kind":"k","data":{"fps":1e400}}', "validate", "range", "^[$]"),
        ("not-an-object", _USAGE, b'["m"]', "decode", "array", ""),
        (
            "too-deep",
            _TELEMETRY,
            b'{"kind":"k","data":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
            "decode",
            "deep",
            "",
        ),
        (
            "wrong-type",
            "spark.function_call",
            call | {"durationMs": "12"},
            "validate",
            "int",
            "^\\$.durationMs$",
        ),
        ("wrong-uuid", _USAGE, {"model": "m", "userId": "me"}, "validate", "UUID", "^\\$.userId$"),
        ("missing-field", _TELEMETRY, {"kind": "k"}, "validate", "data", ""),
        ("negative", _USAGE, {"model": "m", "tokensPrompt": -1}, "validate", ">= 0", "^\\$.tokensPrompt$"),
        (
            "unknown-status",
            "spark.function_call",
            call | {"status": "ok"},
            "validate",
            "'ok'",
            "^\\$.status$",
        ),
        ("unknown-mode", "spark.session.connected", {"mode": "wild"}, "validate", "'wild'", "^\\$.mode$"),
        ("unknown-engine", "spark.preview.unreal.frame", {"type": "preview.frame"}, "subject", "unreal", ""),
        ("empty-id", "spark.function_call", call | {"callId": ""}, "validate", "1", "^\\$.callId$"),
        (
            "contradiction",
            _USAGE,
            {"model": "m", "sessionId": "other"},
            "validate",
            "other",
            "^\\$.sessionId$",
        ),
        (
            "wrong-kind",
            "spark.delta",
            {"type": "connected", "delta": {}},
            "validate",
            "connected",
            "^\\$.type$",
        ),
        ("ahead", _USAGE, {"model": "m", "timestamp": ahead}, "validate", "ahead", "^\\$.timestamp$"),
        ("before-2020", _USAGE, {"model": "m", "timestamp": before}, "validate", "2020", "^\\$.timestamp$"),
        ("nul", "spark.presence", {"type": "p", "payload": ["a\0"]}, "validate", "NUL", ""),
        (
            "overflow",
            _USAGE,
            {"model": "m", "tokensPrompt": 2**31},
            "validate",
            "2147483647",
            "^\\$.tokensPrompt$",
        ),
        (
            "overflowing-cost",
            _USAGE,
            {"model": "m", "costEstimate": 1e6},
            "validate",
            "",
            "^\\$.costEstimate$",
        ),
    ]
    return [
        Case(f"refused-{name}", [Message(subject, fields)], dead=[(stage, Like(reason), Like(path), None)])
        for name, subject, fields, stage, reason, path in refused
    ]


CASES = [*_event_time(), *_identity(), *_refusals()]
