"""The events of one session, as the wire contract has them: scrubbed, in order, each with an id and its time."""

import hashlib
import itertools
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Protocol

import msgspec

from realtime.bridge import Preview
from realtime.builds import Build
from realtime.scrub import ScrubError, scrub

MAX_OUTPUT: Final = 64 << 10
"""Largest output of a call that its event carries, bytes of JSON; a larger one is told by size and hash."""
_SENTENCE_ENDS: Final = (". ", "! ", "? ", "\n")
_LONGEST_TEXT: Final = 4000

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Events(Protocol):
    """What takes events: `connectors.outbox.Outbox`."""

    async def put(self, subject: str, payload: bytes, *, msg_id: str) -> None: ...  # noqa: D102


class Steps:
    """Publishes what happens in one session.

    Args:
        events: takes what is published.
        session_id: the last token of each subject.
        user_id: of whom the session is.
        clock: seconds since 1970, for event time.
    """

    engine = "unity"

    def __init__(self, events: Events, session_id: str, user_id: str, clock: Callable[[], float] = time.time) -> None:
        self.session_id = session_id
        self._events = events
        self._user_id = user_id
        self._clock = clock
        self._numbers = itertools.count(1)
        self._text = ""
        self._text_response = ""

    async def connected(self, model: str, mode: str, **more: object) -> None:
        """The session has begun."""
        await self._publish("spark.session.connected", {"type": "connected", "model": model, "mode": mode, **more})

    async def disconnected(self, **more: object) -> None:
        """It is over."""
        await self._publish("spark.session.disconnected", {"type": "disconnected", **more})

    async def usage(self, model: str, prompt: int, completion: int, cost: Decimal | None, **more: object) -> None:
        """A response used so many tokens. Without a price the cost is left out, and telemetry says so."""
        body: dict[str, Any] = {"model": model, "tokensPrompt": prompt, "tokensCompletion": completion, **more}
        if cost is not None:
            body["costEstimate"] = cost
        await self._publish("spark.usage", body)
        if cost is None:
            await self.telemetry("usage_unpriced", {"model": model})

    async def function_call(
        self, call_id: str, name: str, args: object, *, duration_ms: int, output: object, error: str | None
    ) -> None:
        """A call is over."""
        body: dict[str, Any] = {"callId": call_id, "name": name, "args": args, "durationMs": duration_ms}
        if error is not None:
            body |= {"status": "failed", "error": error}
        else:
            body |= {"status": "success", "output": _within(output)}
        await self._publish("spark.function_call", body)

    async def runtime(self, type_: str, **fields: object) -> None:
        """A step of the engine's work."""
        await self._publish(f"spark.runtime.{self.engine}.{type_.replace('.', '_')}", {"type": type_, **fields})

    async def script_generated(self, name: str, content: str, prompt: str, **more: object) -> None:
        """A script is in the project. The only event that carries code, and it carries it unchanged."""
        body = {"type": "script_generated", "scriptName": name, "prompt": prompt, **more}
        await self._publish(f"spark.runtime.{self.engine}.script_generated", body, {"scriptContent": content})

    async def preview_started(self) -> None:
        """A picture is asked for."""
        await self._preview("started", "loading", {})

    async def preview_completed(self, preview: Preview) -> None:
        """It is there."""
        meta = {"cache": "hit" if preview.cached else "miss", "width": preview.width, "height": preview.height}
        await self._preview("completed", "ready", {"frameRef": preview.frame_ref, "format": "png", "meta": meta})

    async def preview_failed(self, error: str) -> None:
        """It is not."""
        await self._preview("failed", "error", {"error": error})

    async def _preview(self, step: str, status: str, more: dict[str, Any]) -> None:
        body = {"type": f"preview.{step}", "engine": self.engine, "status": status, **more}
        await self._publish(f"spark.preview.{self.engine}.{step}", body)

    async def build(self, step: str, build: Build) -> None:
        """A build is `started`, in `progress`, `completed`, `failed` or over by `timeout`."""
        status = {"started": "queued", "progress": "building", "completed": "completed"}.get(step, "failed")
        body: dict[str, Any] = {"type": f"build_{step}", "jobId": build.job_id, "status": status}
        more = {"target": build.target, "outputPath": build.output_path, "error": build.error}
        body |= {name: value for name, value in more.items() if value}
        if build.seconds:
            body["seconds"] = round(build.seconds, 1)
        await self._publish(f"spark.build.{self.engine}.{step}", body)

    async def text(self, response_id: str, delta: str) -> None:
        """The model says something. It is published by the sentence: half an address could not be told for one."""
        if response_id != self._text_response:
            await self.text_ended()
            self._text_response = response_id
        self._text += delta
        end = max(self._text.rfind(one) + len(one) for one in _SENTENCE_ENDS if one in self._text or one == "\n")
        if end > 0 or len(self._text) > _LONGEST_TEXT:
            said, self._text = (self._text[:end], self._text[end:]) if end > 0 else (self._text, "")
            await self._delta(said)

    async def text_ended(self) -> None:
        """It has said all."""
        if self._text:
            said, self._text = self._text, ""
            await self._delta(said)

    async def _delta(self, text: str) -> None:
        await self._publish(
            "spark.delta", {"type": "delta", "delta": {"text": text, "responseId": self._text_response}}
        )

    async def error(self, error: str, **more: object) -> None:
        """The connection to OpenAI has trouble."""
        await self._publish("spark.error", {"type": "connection_error", "error": error, **more})

    async def telemetry(self, kind: str, data: dict[str, Any]) -> None:
        """A measurement."""
        await self._publish("spark.telemetry", {"kind": kind, "data": data})

    async def _publish(self, subject: str, body: dict[str, Any], code: dict[str, str] | None = None) -> None:
        identity = f"{self.session_id}:{next(self._numbers)}"
        about = {
            "sessionId": self.session_id,
            "timestamp": int(self._clock() * 1000),
            "eventId": identity,
            "userId": self._user_id,
        }
        payload = _encode({**about, **scrub(body), **(code or {})})
        await self._events.put(f"{subject}.{self.session_id}", payload, msg_id=identity)


def _within(output: object) -> object:
    try:
        output = scrub(output)
    except ScrubError:
        return {"omitted": "nested too deeply"}
    encoded = _encode(output)
    if len(encoded) <= MAX_OUTPUT:
        return output
    return {"omitted": f"{len(encoded)} bytes", "sha256": hashlib.sha256(encoded).hexdigest()}
