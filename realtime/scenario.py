"""What one session publishes: a person makes a game, and every message of the contract comes of it.

A session connects, works in turns (a prompt, the model's answer, a tool call, what the engine did with it, a
preview, now and then a build) and disconnects, or falls silent as a crashed client does. Publishers of
different age take part: some send function calls and previews in the older form or spell `preview_started`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from realtime.chance import Chance
from realtime.prices import MODELS, cost

_ENGINES = (
    "unity",
    "unity",
    "unity",
    "godot",
    "pico8",
    "gamemaker",
    "rpgmaker",
    "construct",
    "renpy",
)  # as often as met
_MODES = ("creative", "deterministic", "hybrid")

Body = dict[str, Any]

_PROMPTS = (
    "Make the enemy patrol between two points and chase the player when seen",
    "Add a double jump with a short coyote time",
    "Der Held soll beim Springen Staub aufwirbeln",
    "Save the inventory when the scene changes",
    "宝箱を開けたらコインが飛び散るようにして",
    "Why does the camera shake after landing? Fix it, and keep the follow distance 🎮",
    "Spawn ten asteroids with random velocity at the edges of the screen",
    "The health bar should be green above 50 %, red below 20 %",
)
_NAMES = (
    "EnemyPatrol",
    "DoubleJump",
    "DustTrail",
    "InventoryStore",
    "CoinBurst",
    "CameraRig",
    "AsteroidField",
)
_SCRIPT = """using UnityEngine;

public class {name} : MonoBehaviour
{{
    [SerializeField] private float speed = {speed}f;
    private Rigidbody body;

    private void Awake() => body = GetComponent<Rigidbody>();

    private void FixedUpdate()
    {{
        var input = new Vector3(Input.GetAxis("Horizontal"), 0f, Input.GetAxis("Vertical"));
        body.AddForce(input * speed, ForceMode.Acceleration);
    }}
}}
"""
_TARGETS = ("webgl", "windows64", "android", "osx", "linux64")
_FAILURES = (
    "CS0246: The type or namespace name 'Rigidbdy' could not be found",
    "Unity did not answer within 30 s",
    "Assets/Scripts is read-only",
    'Patch does not apply: hunk 2 expected "speed = 4f"',
)
_SILENT = 0.1  # share of sessions that end without a word


FUNCTIONS = ("generate_unity_script", "apply_patch", "manage_asset")
"""What sessions call."""


class Step(NamedTuple):
    """One message before it has a time and an identity."""

    gap: float
    """Seconds of session time since the message before."""
    subject: str
    """Without the session id, which is its last token."""
    body: Body
    """Without `sessionId`, `timestamp` and identities."""
    kind: str


class Session:
    """One person's session; `steps()` is everything that it publishes, in order."""

    __slots__ = ("_chance", "_engine", "_ids", "_mode", "_model", "_old", "broken", "id", "project_id", "user_id")

    def __init__(self, chance: Chance, ids: Chance) -> None:
        self._chance = chance
        self._ids = ids
        self.id = f"sess_{ids.hex(16)}"
        self.broken = ""
        """A function whose calls fail at the moment."""
        known = chance.random() < 0.85
        self.user_id = ids.uuid() if known else None
        self.project_id = ids.uuid() if known else None
        self._engine = chance.pick(_ENGINES)
        self._model = chance.pick(MODELS)
        self._mode = chance.pick(_MODES)
        self._old = chance.random() < 0.25

    def steps(self) -> Iterator[Step]:
        """The session from connect to its end."""
        chance = self._chance
        yield Step(0.0, "spark.session.connected", self._connected(), "session_connected")
        for _ in range(chance.between(3, 20)):
            yield from self._turn()
        if chance.random() >= _SILENT:
            yield Step(5.0, "spark.session.disconnected", {"type": "disconnected"}, "session_disconnected")

    def _connected(self) -> Body:
        body: Body = {"type": "connected"}
        if self._chance.random() < 0.9:
            body |= {"model": self._model, "mode": self._mode}
        if self._chance.random() < 0.5:
            body["client"] = {"name": "spark-web", "version": "2.4.1"}
        return body

    def _turn(self) -> Iterator[Step]:
        chance = self._chance
        prompt = chance.pick(_PROMPTS)
        yield self._telemetry(4.0 + 8.0 * chance.random(), "user_input", {"chars": len(prompt), "voice": False})
        for index in range(chance.between(1, 3)):
            delta = {"text": prompt[index * 12 : index * 12 + 12], "index": index}
            yield Step(0.15, "spark.delta", {"type": "delta", "delta": delta}, "delta")
        yield self._usage()
        what = chance.random()
        if what < 0.5:
            yield from self._script(prompt)
        elif what < 0.75:
            yield from self._patch()
        else:
            yield from self._asset()
        if chance.random() < 0.5:
            yield from self._preview()
        if chance.random() < 0.08:
            yield from self._build()
        yield from self._background()

    def _background(self) -> Iterator[Step]:
        """What happens beside the work: measurements, and now and then something odd."""
        chance = self._chance
        fps = 58.0 + round(4.0 * chance.random(), 2)
        what = chance.random()
        if what < 0.4:
            elements = [self._measurement(fps + index) for index in range(chance.between(2, 6))]
            yield Step(0.5, "spark.telemetry.batch", {"events": elements}, "telemetry_batch")
        else:
            yield self._telemetry(0.5, "frame", {"fps": fps, "heapMb": chance.between(200, 900)})
        if what > 0.97:
            body = {"type": "connection_error", "error": "WebSocket closed: 1011 keepalive time-out"}
            yield Step(0.2, "spark.error", body, "error")
        elif what > 0.9:
            yield self._other()

    def _measurement(self, fps: float) -> Body:
        element: Body = {"sessionId": self.id, "kind": "frame", "data": {"fps": fps, "engine": self._engine}}
        if fps > 61.0:
            element["eventId"] = self._ids.uuid()
        return element

    def _telemetry(self, gap: float, kind: str, data: Body) -> Step:
        return Step(gap, "spark.telemetry", {"kind": kind, "data": data}, "telemetry")

    def _other(self) -> Step:
        chance = self._chance
        if chance.random() < 0.5:
            return Step(0.1, "spark.presence", {"type": "presence", "payload": ["editor", "preview"]}, "other")
        payload = {"tool": "read_console", "lines": chance.between(1, 40)}
        return Step(0.1, "spark.audit.tool", {"type": "tool_audited", "payload": payload}, "other")

    def _usage(self) -> Step:
        chance = self._chance
        model = self._model if chance.random() < 0.8 else chance.pick(MODELS)
        prompt, completion = chance.between(150, 9000), chance.between(5, 900)
        body = {
            "model": model,
            "tokensPrompt": prompt,
            "tokensCompletion": completion,
            "costEstimate": cost(model, prompt, completion),
        }
        return Step(0.3, "spark.usage", body, "usage")

    def _call(self, name: str, args: Body, ms: int, error: str | None) -> Iterator[Step]:
        """A function call as it ended; a failed one may be tried again under the same call id."""
        chance = self._chance
        gap = ms / 1000
        if self._old:
            result: Body = {"success": error is None, "message": error or "done"}
            body: Body = {"type": "function_call", "functionName": name, "args": args, "result": result}
            yield Step(gap, "spark.function_call", body, "function_call_old")
            return
        body = {"callId": f"call_{self._ids.hex(20)}", "name": name, "args": args, "durationMs": ms}
        if error is None:
            done = {"message": "done", "sha256": self._ids.hex(16)}
            yield Step(gap, "spark.function_call", body | {"status": "success", "output": done}, "function_call")
            return
        yield Step(gap, "spark.function_call", body | {"status": "failed", "error": error}, "function_call")
        if chance.random() < 0.3:
            body |= {"status": "success", "durationMs": ms // 2, "output": {"message": "done, second try"}}
            yield Step(gap / 2, "spark.function_call", body, "function_call")

    def _failure(self, function: str, share: float) -> str | None:
        """Why a call fails, None if it does not."""
        return self._chance.pick(_FAILURES) if self._chance.random() < share or self.broken == function else None

    def _runtime(self, gap: float, event: str, **fields: object) -> Step:
        subject = f"spark.runtime.{self._engine}.{event.replace('.', '_')}"
        return Step(gap, subject, {"type": event, **fields}, "runtime")

    def _script(self, prompt: str) -> Iterator[Step]:
        chance = self._chance
        name = chance.pick(_NAMES)
        content = _SCRIPT.format(name=name, speed=chance.between(2, 12))
        # Answers of a model take 0.4 to 4 s, most of them little.
        ms = 400 + int(3600 * chance.random() ** 8)
        error = self._failure("generate_unity_script", 0.02)
        yield self._runtime(0.1, "generate_unity_script.started", scriptName=name)
        yield from self._call("generate_unity_script", {"scriptName": name, "prompt": prompt}, ms, error)
        if error is None:
            yield self._runtime(0.02, "generate_unity_script.completed", durationMs=ms)
            yield self._runtime(0.02, "script_generated", scriptName=name, scriptContent=content, prompt=prompt)
        else:
            yield self._runtime(0.02, "generate_unity_script.failed", error=error)

    def _patch(self) -> Iterator[Step]:
        chance = self._chance
        path = f"Assets/Scripts/{chance.pick(_NAMES)}.cs"
        args = {"path": path, "edits": [{"startLine": chance.between(1, 30), "newText": "speed = 6f;"}]}
        error = self._failure("apply_patch", 0.03)
        yield from self._call("apply_patch", args, chance.between(20, 900), error)
        if error is None:
            yield self._runtime(0.02, "patch_applied", path=path, edits=1)
        else:
            yield self._runtime(0.02, "apply_patch.failed", path=path, error=error)

    def _asset(self) -> Iterator[Step]:
        chance = self._chance
        asset = f"Assets/Models/{chance.pick(_NAMES)}.fbx"
        event = "asset_ingested" if chance.random() < 0.7 else "asset_deconstructed"
        error = self._failure("manage_asset", 0.0)
        yield from self._call("manage_asset", {"path": asset, "action": event}, chance.between(50, 2000), error)
        if error is None:
            yield self._runtime(0.05, event, path=asset, bytes=chance.between(10_000, 9_000_000))

    def _preview(self) -> Iterator[Step]:
        """A preview in one of three spellings: the newer form, `preview.started`, `preview_started`."""
        chance = self._chance
        frame = f"frames/{self._ids.hex(12)}"
        steps = [
            "started",
            *["frame"] * chance.between(1, 3),
            "failed" if chance.random() < 0.05 else "completed",
        ]
        spelling = chance.random()
        for index, step in enumerate(steps):
            subject = f"spark.preview.{self._engine}.{step}"
            shown = step in ("frame", "completed")
            if not self._old and spelling < 0.5:
                status = "ready" if shown else "loading" if step == "started" else "error"
                body: Body = {
                    "engine": self._engine,
                    "status": status,
                    "meta": {"width": 1280, "height": 720},
                }
            elif spelling < 0.75:
                body = {"type": f"preview.{step}"}
            else:
                body = {"type": f"preview_{step}" if step in ("started", "frame") else f"preview.{step}"}
            if shown:
                body["frameRef"] = f"{frame}-{index}.png"
            if "type" in body:
                body |= {"error": _FAILURES[1]} if step == "failed" else {"format": "png"}
            yield Step(0.25, subject, body, "preview_step" if "type" in body else "preview")

    def _build(self) -> Iterator[Step]:
        chance = self._chance
        job: Body = {"jobId": f"job_{self._ids.hex(12)}", "target": chance.pick(_TARGETS)}
        subject = f"spark.build.{self._engine}"
        body = {"type": "build_started", **job, "status": "queued"}
        yield Step(0.2, f"{subject}.started", body, "build")
        for percent in range(chance.between(5, 30), 100, chance.between(15, 40)):
            body = {"type": "build_progress", **job, "status": "building", "progress": percent}
            yield Step(1.5, f"{subject}.progress", body, "build")
        end = chance.random()
        if end < 0.8:
            body = {
                "type": "build_completed",
                **job,
                "status": "completed",
                "outputPath": f"Builds/{job['jobId']}",
            }
            yield Step(1.0, f"{subject}.completed", body, "build")
        elif end < 0.92:
            body = {"type": "build_failed", **job, "status": "failed", "error": chance.pick(_FAILURES)}
            yield Step(1.0, f"{subject}.failed", body, "build")
        else:
            yield Step(9.0, f"{subject}.timeout", {"type": "build_timeout", **job}, "build")
