"""The traffic that benchmarks and chaos runs use: a fixed mix of kinds, about 400 bytes each."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from realtime.chance import Chance
from realtime.prices import MODELS, cost
from realtime.refusals import refused
from realtime.simulated import SimulatedEvent

_TOOLS = ("generate_unity_script", "apply_patch", "manage_asset", "manage_prefabs", "read_console", "get_sha")
_RUNTIME = (
    "generate_unity_script.started",
    "generate_unity_script.completed",
    "generate_unity_script.failed",
    "patch_applied",
    "apply_patch.failed",
    "asset_ingested",
    "asset_deconstructed",
    "script_generated",
)
_PREVIEW = (("started", "loading"), ("frame", "ready"), ("completed", "ready"), ("failed", "error"))
_TEXT = (
    "Make the enemy patrol between the two points and let it chase the player as soon as he is seen, then "
    "return to the path. Keep the speed a serialized field, and do not allocate in FixedUpdate. Le joueur "
    "doit entendre un son quand l'ennemi le voit, même derrière un mur. Show its state above its head, but "
    "only in debug runs."
)

_encode = msgspec.json.Encoder(decimal_format="number").encode


def bench_mix(
    count: int,
    sessions: int = 1000,
    seed: int = 0,
    invalid: float = 0.01,
    *,
    start: datetime | None = None,
    period: timedelta = timedelta(minutes=10),
) -> Iterator[SimulatedEvent]:
    """`count` messages with event times spread evenly over `period`, each with a message id of its own.

    25 % function calls (a fifth of them in the older form), 25 % telemetry, 20 % usage, 10 % previews (half
    by `type`), 20 % runtime events; the share `invalid` of them is replaced by what the contract refuses.
    The same arguments give the same bytes. Without an (aware) `start` the period ends now.
    """
    start_ms = int((start or datetime.now(UTC) - period).timestamp() * 1000)
    spacing = period.total_seconds() / max(count, 1)
    chance, ids = Chance(f"{seed}"), Chance(f"{seed} {start_ms}")
    session_ids = [f"sess_{ids.hex(16)}" for _ in range(sessions)]
    users = [ids.uuid() for _ in range(100)]
    for number in range(count):
        due = number * spacing
        time_ms = start_ms + int(due * 1000)
        session_id, msg_id = chance.pick(session_ids), ids.uuid()
        if chance.random() < invalid:
            yield refused(chance, session_id, due, time_ms, msg_id=msg_id)
            continue
        subject, kind, fields = _message(chance, ids)
        body = {"sessionId": session_id, "timestamp": time_ms, "userId": chance.pick(users), **fields}
        yield SimulatedEvent(due, f"{subject}.{session_id}", _encode(body), msg_id, kind, msg_id)


_Message = tuple[str, str, dict[str, Any]]


def _message(chance: Chance, ids: Chance) -> _Message:
    """Subject without session id, kind, and fields."""
    what = chance.random()
    if what < 0.25:
        return _function_call(chance, ids)
    if what < 0.5:
        return _telemetry(chance, ids)
    if what < 0.7:
        return _usage(chance, ids)
    if what < 0.8:
        return _preview(chance, ids)
    return _runtime(chance, ids)


def _text(chance: Chance, characters: int) -> str:
    start = chance.between(0, len(_TEXT) - characters)
    return _TEXT[start : start + characters]


def _function_call(chance: Chance, ids: Chance) -> _Message:
    name, failed = chance.pick(_TOOLS), chance.random() < 0.05
    args = {"path": f"Assets/Scripts/{ids.hex(8)}.cs", "prompt": _text(chance, 100)}
    if chance.random() < 0.2:
        result = {"success": not failed, "message": "Unity timed out" if failed else "done"}
        fields: dict[str, Any] = {
            "type": "function_call",
            "functionName": name,
            "args": args,
            "result": result,
        }
        return "spark.function_call", "function_call_old", fields
    fields = {
        "callId": f"call_{ids.hex(20)}",
        "name": name,
        "status": "failed" if failed else "success",
        "durationMs": chance.between(20, 4000),
        "args": args,
    }
    fields |= {"error": "Unity timed out"} if failed else {"output": {"sha256": ids.hex(32)}}
    return "spark.function_call", "function_call", fields


def _telemetry(chance: Chance, ids: Chance) -> _Message:
    data = {
        "fps": 55 + round(10 * chance.random(), 2),
        "heapMb": chance.between(200, 900),
        "scene": f"Assets/Scenes/{ids.hex(8)}.unity",
        "drawCalls": chance.between(100, 2000),
        "note": _text(chance, 170),
    }
    return "spark.telemetry", "telemetry", {"kind": "frame", "data": data}


def _usage(chance: Chance, ids: Chance) -> _Message:
    model, prompt, completion = chance.pick(MODELS), chance.between(150, 9000), chance.between(5, 900)
    fields = {
        "model": model,
        "tokensPrompt": prompt,
        "tokensCompletion": completion,
        "costEstimate": cost(model, prompt, completion),
        "responseId": f"resp_{ids.hex(20)}",
        "note": _text(chance, 145),
    }
    return "spark.usage", "usage", fields


def _preview(chance: Chance, ids: Chance) -> _Message:
    step, status = chance.pick(_PREVIEW)
    subject = f"spark.preview.unity.{step}"
    frame = f"frames/{ids.hex(32)}.png"
    if chance.random() < 0.5:
        fields = {"type": f"preview.{step}", "frameRef": frame, "format": "png", "note": _text(chance, 180)}
        return subject, "preview_step", fields
    meta = {"width": 1280, "height": 720, "camera": "Main Camera", "note": _text(chance, 130)}
    return subject, "preview", {"engine": "unity", "status": status, "frameRef": frame, "meta": meta}


def _runtime(chance: Chance, ids: Chance) -> _Message:
    event = chance.pick(_RUNTIME)
    name = f"Enemy{ids.hex(6)}"
    fields: dict[str, Any] = {"type": event, "scriptName": name, "durationMs": chance.between(100, 4000)}
    if event == "script_generated":
        fields |= {
            "scriptContent": f"public class {name} {{ /* {_text(chance, 80)} */ }}",
            "prompt": _text(chance, 60),
        }
    else:
        fields |= {"path": f"Assets/Scripts/{name}.cs", "message": _text(chance, 160)}
    return f"spark.runtime.unity.{event.replace('.', '_')}", "runtime", fields
