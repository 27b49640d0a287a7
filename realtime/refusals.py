"""Messages that the contract refuses, one table: what is wrong, on which subject, and how.

Two refusals are missing on purpose: a payload above 1 MiB does not pass a NATS server of default settings,
and nesting of thousands of levels tests a reader, it is nothing that publishers do.
"""

from typing import Any, NamedTuple

import msgspec

from realtime.chance import Chance
from realtime.simulated import SimulatedEvent

_ABSENT = object()

_SOUND: dict[str, dict[str, Any]] = {
    "spark.session.connected": {"type": "connected", "model": "gpt-realtime-2.1", "mode": "hybrid"},
    "spark.function_call": {
        "callId": "call_0",
        "name": "apply_patch",
        "status": "success",
        "durationMs": 12,
        "args": {"path": "Assets/Scripts/Player.cs"},
    },
    "spark.telemetry": {"kind": "frame", "data": {"fps": 60}},
    "spark.telemetry.batch": {"events": []},
    "spark.usage": {
        "model": "gpt-realtime-2.1",
        "tokensPrompt": 800,
        "tokensCompletion": 12,
        "costEstimate": 0.1,
    },
    "spark.preview.unity.frame": {"engine": "unity", "status": "ready", "frameRef": "frames/1.png"},
    "spark.runtime.unity.patch_applied": {"type": "patch_applied", "path": "Assets/Scripts/Player.cs"},
    "spark.build.unity.progress": {"type": "build_progress", "jobId": "job_0", "progress": 40},
    "spark.delta": {"type": "delta", "delta": {"text": "Hel"}},
    "spark.presence": {"type": "presence", "payload": {"view": "editor"}},
}


class Refusal(NamedTuple):
    """One way to be wrong: fields that replace those of a sound message, or bytes that replace it."""

    reason: str
    subject: str
    fields: dict[str, Any] | bytes


REFUSALS = (
    Refusal("not JSON", "spark.telemetry", b'{"kind":"frame","data":{"fps":60'),
    Refusal("not JSON", "spark.delta", b"Hello"),
    Refusal("not JSON", "spark.runtime.unity.patch_applied", b"{'type':'patch_applied'}"),
    Refusal("not a JSON number", "spark.telemetry", b'{"kind":"frame","data":{"fps":NaN}}'),
    Refusal("not UTF-8", "spark.presence", b'{"type":"presence","payload":"\xff\xfe"}'),
    Refusal("no body", "spark.usage", b""),
    Refusal("not an object", "spark.function_call", b'["callId","name"]'),
    Refusal("not an object", "spark.session.connected", b"null"),
    Refusal("missing field", "spark.function_call", {"name": _ABSENT}),
    Refusal("missing field", "spark.build.unity.progress", {"jobId": _ABSENT}),
    Refusal("missing field", "spark.presence", {"type": _ABSENT}),
    Refusal("wrong type", "spark.function_call", {"durationMs": "12"}),
    Refusal("wrong type", "spark.telemetry", {"data": [60]}),
    Refusal("wrong type", "spark.usage", {"tokensPrompt": 1.5}),
    Refusal("wrong type", "spark.delta", {"delta": "Hel"}),
    Refusal("wrong type", "spark.presence", {"userId": "user-1"}),
    Refusal("wrong type", "spark.telemetry", {"timestamp": "yesterday"}),
    Refusal("negative count", "spark.function_call", {"durationMs": -1}),
    Refusal("negative count", "spark.usage", {"tokensPrompt": -800}),
    Refusal("negative count", "spark.usage", {"costEstimate": -0.1}),
    Refusal("unknown value", "spark.function_call", {"status": "ok"}),
    Refusal("unknown value", "spark.preview.unity.frame", {"engine": "unreal"}),
    Refusal("unknown value", "spark.preview.unity.frame", {"status": "shown"}),
    Refusal("unknown value", "spark.session.connected", {"mode": "wild"}),
    Refusal("unknown value", "spark.build.unity.progress", {"status": "paused"}),
    Refusal("empty id", "spark.usage", {"sessionId": ""}),
    Refusal("empty id", "spark.function_call", {"callId": ""}),
    Refusal("empty id", "spark.telemetry", {"eventId": ""}),
    Refusal("empty id", "spark.build.unity.progress", {"jobId": ""}),
    Refusal("session contradicts subject", "spark.telemetry", {"sessionId": "sess_of_another"}),
    Refusal("type contradicts subject", "spark.delta", {"type": "connection_error"}),
    Refusal("time in the future", "spark.runtime.unity.patch_applied", {"timestamp": 4_102_444_800_000}),
    Refusal("time before 2020", "spark.usage", {"timestamp": 1_577_836_799_999}),
    Refusal("NUL in text", "spark.usage", {"model": "gpt\0realtime"}),
    Refusal("NUL in text", "spark.presence", {"payload": {"view": ["edi\0tor"]}}),
    Refusal("number too large", "spark.function_call", {"durationMs": 2**31}),
    Refusal("number too large", "spark.usage", {"tokensPrompt": 2**63}),
    Refusal("number too large", "spark.usage", {"costEstimate": 1_000_000}),
    Refusal("number too large", "spark.build.unity.progress", {"progress": 101}),
    Refusal("empty batch", "spark.telemetry.batch", {}),
)
"""Every refusal, each as likely as another."""

_encode = msgspec.json.Encoder().encode


def refused(chance: Chance, session_id: str, due: float, time_ms: int, *, msg_id: str) -> SimulatedEvent:
    """One of them, in the name of this session."""
    reason, subject, fields = chance.pick(REFUSALS)
    payload = fields if isinstance(fields, bytes) else _damaged(subject, fields, session_id, time_ms)
    return SimulatedEvent(due, f"{subject}.{session_id}", payload, msg_id, "invalid", msg_id, reason)


def _damaged(subject: str, fields: dict[str, Any], session_id: str, time_ms: int) -> bytes:
    body = {"sessionId": session_id, "timestamp": time_ms, **_SOUND[subject], **fields}
    return _encode({name: value for name, value in body.items() if value is not _ABSENT})
