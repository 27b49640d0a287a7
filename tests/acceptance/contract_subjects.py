"""The wire contract's subjects as a table of cases: both spellings, every engine, status and type."""

from decimal import Decimal
from typing import Any

from tests.acceptance.contract import OWNER, PROJECT, STREAM, USER, Case, Like, Message, Row, at


def _sessions() -> list[Case]:
    connected, disconnected = "spark.session.connected", "spark.session.disconnected"
    told = {"type": "connected", "model": "gpt-realtime-2.1", "mode": "creative"}
    ended = {"type": "disconnected"}
    return [
        Case(
            "session-opens-and-closes",
            [Message(connected, told | OWNER | {"client": {"v": 2}}), Message(disconnected, ended, 60)],
            sessions=[(USER, "gpt-realtime-2.1", "creative", at(), at(60), {"client": {"v": 2}})],
            events=[
                (
                    *("connected", at(), USER, PROJECT),
                    {"model": "gpt-realtime-2.1", "mode": "creative", "client": {"v": 2}},
                ),
                ("disconnected", at(60), None, None, {}),
            ],
        ),
        Case(
            "session-told-little",
            [Message(connected, {"type": "connected"})],
            sessions=[(None, "unknown", "hybrid", at(), None, {})],
            events=[("connected", at(), None, None, {})],
        ),
        Case(
            "session-in-reverse",
            [
                Message(disconnected, ended, 60),
                Message(connected, {"type": "connected", "mode": "deterministic"}),
            ],
            sessions=[(None, "unknown", "deterministic", at(), at(60), {})],
            events=[
                ("connected", at(), None, None, {"mode": "deterministic"}),
                ("disconnected", at(60), None, None, {}),
            ],
        ),
        Case(
            "session-only-closed",
            [Message(disconnected, {})],
            sessions=[(None, "unknown", "hybrid", None, at(), {})],
            events=[("disconnected", at(), None, None, {})],
        ),
        Case(
            "session-comes-back",
            [
                Message(connected, {"type": "connected"}),
                Message(disconnected, ended, 60),
                Message(connected, {"type": "connected", "model": "gpt-realtime-2"}, 90),
            ],
            sessions=[(None, "gpt-realtime-2", "hybrid", at(), None, {})],
            events=[
                ("connected", at(), None, None, {}),
                ("disconnected", at(60), None, None, {}),
                ("connected", at(90), None, None, {"model": "gpt-realtime-2"}),
            ],
        ),
    ]


def _function_calls() -> list[Case]:
    subject = "spark.function_call"
    args, output = {"path": "Assets/Scripts/Ü.cs"}, {"lines": [1, 2.5, None]}
    call = {"callId": "c-1", "name": "apply_patch", "status": "success"}
    old = {"type": "function_call", "functionName": "apply_patch", "args": args}
    return [
        Case(
            "call-full",
            [Message(subject, call | OWNER | {"durationMs": 0, "args": args, "output": output})],
            calls=[("c-1", "apply_patch", at(), 0, "success", None, args, output)],
        ),
        Case(
            "call-short",
            [Message(subject, call | {"status": "failed", "error": "no such file"})],
            calls=[("c-1", "apply_patch", at(), None, "failed", "no such file", None, None)],
        ),
        *(
            Case(
                f"call-again-{order}",
                [
                    Message(
                        subject,
                        call | {"status": "failed", "durationMs": 9, "error": "busy", "args": args},
                        0,
                    ),
                    Message(subject, call | {"durationMs": 5, "output": output}, 3),
                ][:: 1 if order == "in-order" else -1],
                calls=[("c-1", "apply_patch", at(), 5, "success", None, args, output)],
            )
            for order in ("in-order", "reversed")
        ),
        Case(
            "call-old-success",
            [Message(subject, old | {"result": {"success": True, "guid": "a1"}, "eventId": "call-old-1"})],
            calls=[
                (
                    "call-old-1",
                    "apply_patch",
                    at(),
                    None,
                    "success",
                    None,
                    args,
                    {"success": True, "guid": "a1"},
                )
            ],
        ),
        Case(
            "call-old-without-success",
            [Message(subject, old | {"result": {}}, msg_id="call-old-2")],
            calls=[("call-old-2", "apply_patch", at(), None, "success", None, args, {})],
        ),
        Case(
            "call-old-failed",
            [Message(subject, old | {"result": {"success": False, "error": "read-only"}})],
            calls=[
                (
                    *(Like(rf"^{STREAM}:\d+$"), "apply_patch", at(), None, "failed", "read-only", args),
                    {"success": False, "error": "read-only"},
                )
            ],
        ),
    ]


def _telemetry() -> list[Case]:
    batch = "spark.telemetry.batch"
    when = int(at(1).timestamp() * 1000)

    def element(session_id: str, **fields: object) -> dict[str, object]:
        return {"sessionId": session_id, "kind": "frame", "data": {"fps": 60}, "timestamp": when, **fields}

    return [
        Case(
            "telemetry-one",
            [Message("spark.telemetry", {"kind": "frame", "data": {"fps": 59.94}, "region": "eu"} | OWNER)],
            telemetry=[("frame", at(), {"fps": 59.94, "region": "eu"})],
        ),
        Case(
            "telemetry-batch",
            [
                Message(
                    batch,
                    {
                        "events": [
                            element("telemetry-batch", eventId="telemetry-batch-1"),
                            element("telemetry-batch", data={}, timestamp=when + 1000),
                            element("telemetry-batch-other"),
                        ]
                    },
                    msg_id="telemetry-batch",
                )
            ],
            telemetry=[("frame", at(1), {"fps": 60}), ("frame", at(2), {})],
        ),
        Case("telemetry-batch-other", [], telemetry=[("frame", at(1), {"fps": 60})]),
        Case(
            "telemetry-batch-with-one-bad",
            [
                Message(
                    batch,
                    {
                        "events": [
                            element("telemetry-batch-with-one-bad"),
                            element("telemetry-batch-with-one-bad", data="sixty"),
                            element("telemetry-batch-with-one-bad", timestamp=when + 1000),
                        ]
                    },
                )
            ],
            telemetry=[("frame", at(1), {"fps": 60}), ("frame", at(2), {"fps": 60})],
            dead=[("validate", Like("object"), Like(r"^\$\.events\[1\]\.data$"), 1)],
        ),
        Case(
            "telemetry-batch-empty",
            [Message(batch, {"events": []})],
            dead=[("validate", Like("empty"), "$.events", None)],
        ),
    ]


def _usage() -> list[Case]:
    subject = "spark.usage"
    return [
        Case(
            "usage-full",
            [
                Message(
                    subject,
                    {"model": "m", "tokensPrompt": 800, "tokensCompletion": 12, "costEstimate": 0.019472} | OWNER,
                )
            ],
            usage=[(at(), "m", 800, 12, Decimal("0.019472"))],
        ),
        Case(
            "usage-short",
            [Message(subject, {"model": "m"})],
            usage=[(at(), "m", 0, 0, Decimal(0))],
        ),
        Case(
            "usage-largest",
            [
                Message(
                    subject,
                    {
                        "model": "m",
                        "tokensPrompt": 2**31 - 1,
                        "tokensCompletion": 2**31 - 1,
                        "costEstimate": 999999.999999,
                    },
                )
            ],
            usage=[(at(), "m", 2**31 - 1, 2**31 - 1, Decimal("999999.999999"))],
        ),
    ]


def _previews() -> list[Case]:
    engines = ("unity", "godot", "pico8", "gamemaker", "rpgmaker", "construct", "renpy")
    statuses = ("idle", "loading", "ready", "error")
    types = {
        "preview.started": ("started", "loading"),
        "preview_started": ("started", "loading"),
        "preview.frame": ("frame", "ready"),
        "preview_frame": ("frame", "ready"),
        "preview.completed": ("completed", "ready"),
        "preview.failed": ("failed", "error"),
    }
    return [
        Case(
            "preview-every-engine",
            [
                Message(f"spark.preview.{engine}.frame", {"engine": engine, "status": "ready"}, number)
                for number, engine in enumerate(engines)
            ],
            previews=[(engine, at(number), "ready", None, {}) for number, engine in enumerate(engines)],
        ),
        Case(
            "preview-every-status",
            [
                Message(
                    "spark.preview.unity.frame",
                    {
                        "engine": "unity",
                        "status": status,
                        "frameRef": f"f/{number}.png",
                        "meta": {"w": number},
                        "codec": "png",
                    },
                    number,
                )
                for number, status in enumerate(statuses)
            ],
            previews=[
                ("unity", at(number), status, f"f/{number}.png", {"w": number, "codec": "png"})
                for number, status in enumerate(statuses)
            ],
        ),
        Case(
            "preview-every-type",
            [
                Message(
                    f"spark.preview.renpy.{step}",
                    {"type": type_, "frameRef": "f.png", "format": "png", "error": "none"},
                    number,
                )
                for number, (type_, (step, _)) in enumerate(types.items())
            ],
            previews=[
                ("renpy", at(number), status, "f.png", {"format": "png", "error": "none"})
                for number, (_, status) in enumerate(types.values())
            ],
            events=[
                (type_, at(number), None, None, {"frameRef": "f.png", "format": "png", "error": "none"})
                for number, type_ in enumerate(types)
            ],
        ),
    ]


def _runtime() -> list[Case]:
    types = (
        *("generate_unity_script.started", "generate_unity_script.completed", "generate_unity_script.failed"),
        *("patch_applied", "apply_patch.failed", "asset_ingested", "asset_deconstructed", "something_new"),
    )
    script = {"scriptName": "Player", "scriptContent": "class Player {}\n// 🎮", "prompt": "a player"}
    return [
        Case(
            "runtime-every-type",
            [
                Message(f"spark.runtime.unity.step{number}", {"type": type_, "path": "A", "deep": [{}]}, number)
                for number, type_ in enumerate(types)
            ],
            events=[(type_, at(number), None, None, {"path": "A", "deep": [{}]}) for number, type_ in enumerate(types)],
        ),
        Case(
            "runtime-script",
            [Message("spark.runtime.godot.script_generated", {"type": "script_generated"} | script | OWNER)],
            events=[("script_generated", at(), USER, PROJECT, script)],
            scripts=[("Player", "class Player {}\n// 🎮", "a player", at())],
        ),
        Case(
            "runtime-script-without-prompt",
            [
                Message(
                    "spark.runtime.unity.script_generated",
                    {"type": "script_generated", "scriptName": "P", "scriptContent": ""},
                )
            ],
            events=[("script_generated", at(), None, None, {"scriptName": "P", "scriptContent": ""})],
            scripts=[("P", "", None, at())],
        ),
        Case(
            "runtime-half-a-script",
            [
                Message(
                    "spark.runtime.unity.script_generated",
                    {"type": "script_generated", "scriptName": "Player"},
                )
            ],
            events=[("script_generated", at(), None, None, {"scriptName": "Player"})],
        ),
    ]


def _builds() -> list[Case]:
    def step(session: str, name: str, seconds: float, **fields: object) -> Message:
        body = {"type": f"build_{name}", "jobId": session, **fields}
        return Message(f"spark.build.unity.{name}", body, seconds)

    def event(session: str, name: str, seconds: float, **fields: object) -> Row:
        return (f"build_{name}", at(seconds), None, None, {"jobId": session, **fields})

    cases = [
        Case(
            "build-queued",
            [step("build-queued", "started", 0, target="webgl", status="queued")],
            builds=[("build-queued", "webgl", "queued", at(), at())],
            events=[event("build-queued", "started", 0, target="webgl", status="queued")],
        ),
        Case(
            "build-building",
            [step("build-building", "started", 0), step("build-building", "progress", 5, progress=12.5)],
            builds=[("build-building", None, "building", at(), at(5))],
            events=[
                event("build-building", "started", 0),
                event("build-building", "progress", 5, progress=12.5),
            ],
        ),
    ]
    for end, status in (("completed", "completed"), ("failed", "failed"), ("timeout", "failed")):
        for order in (1, -1):
            name = f"build-{end}{'-reversed' if order < 0 else ''}"
            messages = [
                step(name, "started", 0, target="webgl"),
                step(name, "progress", 5, status="building", progress=50),
                step(name, end, 9, outputPath="Builds/1"),
                # Sent by the same engine, but it happened after the end.
                step(name, "progress", 11, progress=99),
            ]
            cases.append(
                Case(
                    name,
                    messages[::order],
                    builds=[(name, "webgl", status, at(), at(11))],
                    events=[
                        event(name, "started", 0, target="webgl"),
                        event(name, "progress", 5, status="building", progress=50),
                        event(name, end, 9, outputPath="Builds/1"),
                        event(name, "progress", 11, progress=99),
                    ],
                )
            )
    return cases


def _plain_events() -> list[Case]:
    payloads: list[Any] = [{"a": {"b": 1}}, [1, "two", None], "text", 1.5, True]
    return [
        Case(
            "delta",
            [
                Message("spark.delta", {"type": "delta", "delta": {"text": "Hel"}}),
                Message("spark.delta", {"delta": {}}, 1),
            ],
            events=[
                ("delta", at(), None, None, {"delta": {"text": "Hel"}}),
                ("delta", at(1), None, None, {"delta": {}}),
            ],
        ),
        Case(
            "error",
            [Message("spark.error", {"type": "connection_error", "error": "closed: 1011"} | OWNER)],
            events=[("connection_error", at(), USER, PROJECT, {"error": "closed: 1011"})],
        ),
        Case(
            "other-with-payload",
            [
                Message(
                    "spark.some.other.subject.of.any.length",
                    {"type": "t", "payload": payload, "x": 1},
                    number,
                )
                for number, payload in enumerate(payloads)
            ],
            events=[("t", at(number), None, None, payload) for number, payload in enumerate(payloads)],
        ),
        Case(
            "other-without-payload",
            [
                Message(
                    "spark.presence",
                    {"type": "presence", "view": "editor", "n": 9007199254740991} | OWNER,
                )
            ],
            events=[("presence", at(), USER, PROJECT, {"view": "editor", "n": 9007199254740991})],
        ),
    ]


CASES = [
    *_sessions(),
    *_function_calls(),
    *_telemetry(),
    *_usage(),
    *_previews(),
    *_runtime(),
    *_builds(),
    *_plain_events(),
]
