"""Messages as a NATS source would hand them over, made from payloads."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest

from connectors.messages import NatsBatch, NatsSourceMessage
from flows.events import DeadLetter, Outcomes
from flows.validate import validate

STREAM: Final = "SPARK"
STORED_AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""When JetStream stored the messages."""
AT_MS: Final = 1_741_964_966_535
"""An event time, epoch milliseconds."""
AT_US: Final = AT_MS * 1000
STORED_US: Final = int(STORED_AT.timestamp()) * 1_000_000
USER: Final = "6f1c2a4e-58f1-4d0c-9a59-3b7f2f0c1d11"
PROJECT: Final = "0e9d8c7b-6a59-4837-a261-504f3e2d1c0b"
USER_BYTES: Final = bytes.fromhex(USER.replace("-", ""))
PROJECT_BYTES: Final = bytes.fromhex(PROJECT.replace("-", ""))

SOUND: Final[list[tuple[str, dict[str, Any]]]] = [
    ("spark.session.connected.s", {"type": "connected"}),
    ("spark.session.disconnected.s", {"type": "disconnected"}),
    ("spark.function_call.s", {"callId": "c", "name": "n", "status": "success"}),
    ("spark.function_call.s", {"type": "function_call", "functionName": "n", "result": {"success": True}}),
    ("spark.telemetry.s", {"kind": "k", "data": {}}),
    ("spark.telemetry.batch.s", {"events": [{"sessionId": "s", "kind": "k", "data": {}}]}),
    ("spark.usage.s", {"model": "m"}),
    ("spark.preview.unity.frame.s", {"engine": "unity", "status": "ready"}),
    ("spark.preview.unity.frame.s", {"type": "preview.frame"}),
    ("spark.runtime.unity.patch_applied.s", {"type": "patch_applied"}),
    ("spark.build.unity.progress.s", {"type": "build_progress", "jobId": "j"}),
    ("spark.delta.s", {"type": "delta", "delta": {}}),
    ("spark.error.s", {"type": "connection_error", "error": "e"}),
    ("spark.presence.s", {"type": "presence"}),
]
"""One sound message of each kind and spelling."""
EVERY_KIND: Final = pytest.mark.parametrize(
    ("subject", "fields"), SOUND, ids=[f"{subject} {'.'.join(fields)}" for subject, fields in SOUND]
)


def header_block(headers: dict[str, str | bytes]) -> bytes:
    """Headers as they come from the server; none for none."""
    if not headers:
        return b""
    lines = [
        name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    return b"NATS/1.0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


def message(
    subject: str, payload: bytes | dict[str, Any], headers: dict[str, str | bytes] | None = None, sequence: int = 1
) -> NatsSourceMessage:
    """One message; a dictionary is its JSON."""
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return NatsSourceMessage(subject, data, sequence, STORED_US * 1000, header_block(headers or {}))


def batch(*messages: NatsSourceMessage) -> NatsBatch:
    """Messages of one partition, numbered from 1."""
    numbered = [msgspec.structs.replace(one, sequence=number) for number, one in enumerate(messages, 1)]
    return NatsBatch(STREAM, 0, 0, len(numbered), numbered)


def outcomes(*messages: NatsSourceMessage) -> Outcomes:
    """What becomes of them."""
    return validate(batch(*messages))


def outcome(subject: str, payload: bytes | dict[str, Any], headers: dict[str, str | bytes] | None = None) -> Outcomes:
    """What becomes of one message."""
    return outcomes(message(subject, payload, headers))


def refusal(subject: str, payload: bytes | dict[str, Any], headers: dict[str, str | bytes] | None = None) -> DeadLetter:
    """The dead letter that one message becomes, whole."""
    result = outcome(subject, payload, headers)
    assert (result.stored, result.duplicate, result.dead_messages) == (0, 0, 1)
    assert not result.rows
    assert not result.ids
    (letter,) = result.dead
    return letter
