"""A user's session: what they say goes to OpenAI, what the model calls is done in Unity, and each step is published.

    async with SparkRealtimeSession(token=token, backend=backend) as session:
        await session.send_user_input("Create a Unity player controller")
        async for happening in session: ...

OpenAI keeps nothing of a connection that is gone, and closes each after an hour. So the conversation is kept here, and
another connection is seeded with it: calls stand in it with their outputs, and are not made again. A response that was
cut off has used tokens that nobody can tell: that is published as unknown, never as none.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import structlog
from pydantic import SecretStr

from connectors.breaker import CircuitOpenError
from connectors.errors import PublishError, SlateError
from connectors.limits import LimitExceededError
from connectors.settings import Settings
from connectors.tracing import NO_SPAN, Span
from realtime.backend import Backend
from realtime.bridge import UnityBridge
from realtime.connection import ConnectionLostError, RealtimeApiError, Response
from realtime.dialogue import Dialogue
from realtime.happenings import (
    CallEnded,
    CallStarted,
    Disconnected,
    Failed,
    Happening,
    TextDelta,
    TurnEnded,
)
from realtime.modes import DEFAULT_MODEL, Mode, session_of
from realtime.quota import LEASE_S, QuotaExceededError
from realtime.steps import Steps
from realtime.toolbox import Toolbox, arguments_told
from realtime.tools import TOOLS, ToolArgumentError, definitions, parse

MAX_INPUT: Final = 32_000
"""Longest input, characters."""
MAX_ROUNDS: Final = 12
"""How often the model may call tools and go on in one turn."""
MAX_CALLS: Final = 16
"""How many calls of one response are made; others are refused."""
CALLS_AT_ONCE: Final = 4
HAPPENINGS_KEPT: Final = 2000
"""How many happenings wait for whoever iterates; of more, the oldest are forgotten."""

_log = structlog.get_logger(__name__)


class SessionError(SlateError):
    """A session is not used as it can be."""


class SparkRealtimeSession:
    """One session. Iterate it for what happens; a turn may also be awaited.

    Args:
        backend: what the sessions of this process share; one of this session alone if none is given.
        token: the user's token, which says who they are.
        user_id: the user; only an admin may name another than the token does.
        api_key: of OpenAI; that of the settings if none is given.
        model: of OpenAI.
        mode: creative, deterministic or hybrid; that of the settings if none is given. See `realtime.modes`.
        project: the Unity project, `Name@hash`; that of the settings, or the only one that is open, if none is given.
    """

    def __init__(
        self,
        *,
        token: str,
        user_id: str | None = None,
        api_key: str | SecretStr | None = None,
        model: str = DEFAULT_MODEL,
        mode: Mode | None = None,
        project: str | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.session_id = f"sess_{secrets.token_hex(16)}"
        self.model = model
        self._mode = mode
        self._given_backend = backend
        self._own = contextlib.AsyncExitStack()
        self._token = SecretStr(token)
        self._wanted_user = user_id
        self._api_key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._project = project
        self._happenings: deque[Happening] = deque(maxlen=HAPPENINGS_KEPT)
        self._happened = asyncio.Event()
        self._turn: asyncio.Task[TurnEnded] | None = None
        self._inputs = asyncio.Lock()
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._text: asyncio.Queue[tuple[str, str, Span] | None] = asyncio.Queue()
        self._span = NO_SPAN  # of the latest turn
        self._tasks: list[asyncio.Task[None]] = []
        self._open = False
        self._over = False

    def __repr__(self) -> str:
        return f"<SparkRealtimeSession {self.session_id} {'open' if self._open else 'closed'}>"

    async def connect(self) -> None:
        """Check who the user is and what they may, connect to OpenAI, and announce the session.

        Raises:
            NotAuthenticatedError, NotAllowedError: the token is not good for it.
            LimitExceededError, QuotaExceededError: not now; says when to come back.
            ConnectionLostError, RealtimeApiError: OpenAI cannot be reached, or refuses.
            ConfigurationError: a setting is missing.
        """
        if self._open or self._over:
            raise SessionError("a session connects once: make another one")
        if self._given_backend is None:
            self._backend = await self._own.enter_async_context(Backend(Settings.load()))
        else:
            self._backend = self._given_backend
        try:
            await self._begin()
        except BaseException:
            await self._own.aclose()
            raise

    async def _begin(self) -> None:
        identity = await self._backend.identify(self._token.get_secret_value(), self._wanted_user)
        self.mode: Mode = self._mode or self._backend.settings.mode
        self.user_id = (self._wanted_user or identity.user_id).lower()
        self._steps = Steps(self._backend.events, self.session_id, self.user_id)
        self._bridge: UnityBridge = await self._backend.bridge(self._project, self._steps)
        self._toolbox = Toolbox(self._bridge, self._steps)
        self._dialogue = Dialogue(
            self._backend.openai(self._api_key),
            self.model,
            session_of(self.mode, self.model, definitions()),
            safety_identifier=hashlib.sha256(f"spark {self.user_id}".encode()).hexdigest(),
            steps=self._steps,
            tell=self._tell,
            on_text=self._said,
            on_tokens=self._used,
            tracing=self._backend.tracing,
        )
        await self._backend.quota.connect(self.user_id, self.session_id)
        try:
            await self._dialogue.connect()
            await self._steps.connected(self.model, self.mode, project=self._bridge.instance)
        except BaseException:
            await self._dialogue.close()
            await self._backend.quota.leave(self.user_id, self.session_id)
            raise
        self._open = True
        self._tasks = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._publish_text())]

    async def disconnect(self) -> None:
        """End the session: what is under way is cancelled, and all that happened is published."""
        if not self._open:
            return
        self._open = False
        await self.cancel()
        if self._turn is not None:
            await asyncio.gather(self._turn, return_exceptions=True)
        await self._dialogue.close()
        self._text.put_nowait(None)
        self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bridge.close()
        try:
            await self._steps.disconnected()
        finally:
            await self._backend.quota.leave(self.user_id, self.session_id)
            await self._own.aclose()
            self._over = True
            self._tell(Disconnected())

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    def renew_token(self, token: str) -> None:
        """Go on with another token of the same user, as tokens expire; it is checked with the next input."""
        self._token = SecretStr(token)

    async def health(self) -> dict[str, Any]:
        """Whether each part works: OpenAI, NATS and what waits for it, Unity; if it is not open, only that."""
        if not self._open:
            return {"session": self.session_id, "open": False}
        age_s = self._dialogue.age_s
        return {
            "session": self.session_id,
            "open": True,
            "openai": {"connected": age_s is not None, "age_s": round(age_s, 1) if age_s is not None else None},
            "nats": {"connected": self._backend.events.connected, "pending": self._backend.events.pending},
            "unity": await self._bridge.health(),
        }

    # ---- what happens ----------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Happening:
        while not self._happenings:
            if self._over:
                raise StopAsyncIteration
            self._happened.clear()
            await self._happened.wait()
        return self._happenings.popleft()

    def _tell(self, happening: Happening) -> None:
        self._happenings.append(happening)
        self._happened.set()

    # ---- turns -----------------------------------------------------------------------------------------------

    async def send_user_input(self, text: str) -> "asyncio.Task[TurnEnded]":
        """Say something. Returns once it is accepted; await what it returns for the end of the turn.

        A turn that is under way is interrupted: its response is cancelled, calls that run are waited for.

        Raises:
            SessionError: the session is not open, or the input is empty or too long.
            NotAuthenticatedError: the token has expired meanwhile.
            LimitExceededError, QuotaExceededError: not now; says when to come back.
            PublishError: events cannot be kept any more.
        """
        if not self._open:
            raise SessionError("the session is not open: connect() first")
        if not text.strip() or len(text) > MAX_INPUT:
            raise SessionError(f"an input has 1 to {MAX_INPUT} characters; this one has {len(text.strip())}")
        about = {"session.id": self.session_id, "gen_ai.request.model": self.model, "spark.mode": self.mode}
        span = self._backend.tracing.begin("user input", about)
        try:
            with span.current():
                return await self._accept(text, span)
        except BaseException as error:
            span.end(error)
            raise

    async def _accept(self, text: str, span: Span) -> "asyncio.Task[TurnEnded]":
        async with self._inputs:
            await self._backend.identify(self._token.get_secret_value(), self._wanted_user)
            await self._backend.quota.input(self.user_id)
            await self._steps.telemetry("user_input", {"chars": len(text)})
            await self.cancel()
            if self._turn is not None:
                await asyncio.gather(self._turn, return_exceptions=True)
            self._dialogue.interrupted.clear()
            self._span = span
            self._turn = asyncio.create_task(self._run_turn(text, span))
            return self._turn

    async def cancel(self) -> None:
        """Interrupt the turn under way, if there is one. Calls that run in Unity go on until they are done."""
        if self._turn is None or self._turn.done():
            return
        await self._dialogue.interrupt()

    async def _run_turn(self, text: str, span: Span) -> TurnEnded:
        with span:
            try:
                ended = await self._take_turn(text)
            except RealtimeApiError as error:
                await self._fail(Failed(error.code, str(error), error.fatal))
                ended = TurnEnded("failed", "", 0, error.code)
            except (ConnectionLostError, PublishError) as error:
                await self._fail(Failed(type(error).__name__, str(error)))
                ended = TurnEnded("failed", "", 0, "connection_lost")
            span.outcome(ended.status)
            if ended.status == "failed":
                span.fail(ended.reason)
        self._tell(ended)
        return ended

    async def _fail(self, failed: Failed) -> None:
        self._tell(failed)
        try:
            await self._steps.error(failed.message, code=failed.code)
        except PublishError as error:
            _log.error("an error cannot be published", error=str(error))

    async def _take_turn(self, prompt: str) -> TurnEnded:
        await self._dialogue.say(prompt)
        calls = 0
        for _ in range(MAX_ROUNDS):
            if self._dialogue.interrupted.is_set():
                return TurnEnded("cancelled", "", calls, "interrupted")
            response = await self._dialogue.respond()
            said = _text_of(response)
            if said and response.status != "failed":
                self._dialogue.keep(said)
            if response.status != "completed":
                return await self._unfinished(response, said, calls)
            called = [item for item in response.output if item["type"] == "function_call" and _complete(item, response)]
            if not called:
                return TurnEnded("completed", said, calls)
            calls += len(called)
            outputs = await asyncio.gather(*(self._call(item, n, prompt) for n, item in enumerate(called)))
            for item, output in zip(called, outputs, strict=True):
                await self._dialogue.answer(item["call_id"], item["name"], item["arguments"], output)
        await self._steps.telemetry("rounds_exceeded", {"rounds": MAX_ROUNDS, "calls": calls})
        self._tell(Failed("rounds_exceeded", f"the model called tools {MAX_ROUNDS} times in a row and was stopped"))
        return TurnEnded("incomplete", "", calls, "rounds_exceeded")

    async def _unfinished(self, response: Response, said: str, calls: int) -> TurnEnded:
        if response.status == "cancelled":
            return TurnEnded("cancelled", said, calls, response.reason)
        failed = Failed(response.reason or response.status, response.message or f"the answer is {response.status}")
        if response.status == "incomplete":
            self._tell(failed)
            return TurnEnded("incomplete", said, calls, response.reason)
        await self._fail(failed)
        return TurnEnded("failed", said, calls, response.reason)

    # ---- in the background ----------------------------------------------------------------------------------

    def _said(self, response_id: str, delta: str) -> None:
        if delta:
            self._tell(TextDelta(delta))
        self._text.put_nowait((response_id, delta, self._span))

    async def _used(self, tokens: int) -> None:
        await self._backend.quota.used(self.user_id, tokens)

    async def _publish_text(self) -> None:
        while (said := await self._text.get()) is not None:
            response_id, delta, span = said
            try:
                with span.current():
                    await (self._steps.text(response_id, delta) if delta else self._steps.text_ended())
            except PublishError as error:
                _log.error("what the model says cannot be published", error=str(error))

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._backend.quota.keep(self.user_id, self.session_id)
            except LimitExceededError as error:
                _log.warning("another session has taken this one's place", session=self.session_id, error=str(error))

    # ---- calls -----------------------------------------------------------------------------------------------

    async def _call(self, item: dict[str, Any], number: int, prompt: str) -> str:
        """Make one call; what goes wrong is an output like any other, and never ends the session."""
        name, call_id = str(item["name"])[:100], str(item["call_id"])
        known = name if name in TOOLS else "unknown"  # what a model makes up may be anything
        about = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": known, "gen_ai.tool.call.id": call_id}
        async with self._calls:
            with self._backend.tracing.begin(f"execute_tool {known}", about) as span:
                began = time.monotonic()
                told: dict[str, Any] = {}
                output: dict[str, Any] = {}
                error: str | None = None
                try:
                    if number >= MAX_CALLS:
                        raise ToolArgumentError(f"at most {MAX_CALLS} calls at a time: make this one again")
                    tool = parse(item["name"], item["arguments"])
                    told = arguments_told(tool)
                    self._tell(CallStarted(call_id, name, told))
                    await self._backend.quota.call(self.user_id, name)
                    output = await self._toolbox.run(tool, prompt)
                except PublishError:
                    raise
                except SlateError as failure:
                    span.fail(type(failure).__name__)
                    error = str(failure)
                    output = {"error": error}
                    if isinstance(failure, (LimitExceededError, QuotaExceededError, CircuitOpenError)):
                        output["retryAfterS"] = round(failure.retry_after_s, 1)
                except Exception as fault:  # noqa: BLE001 - a fault of ours must not end the user's session
                    span.fail(type(fault).__name__)
                    _log.exception("a call failed by a fault of the program", name=name)
                    error = f"an internal error ({type(fault).__name__})"
                    output = {"error": error}
                duration = round((time.monotonic() - began) * 1000)
                self._tell(CallEnded(call_id, name, output, error, duration))
                await self._steps.function_call(call_id, name, told, duration_ms=duration, output=output, error=error)
                return msgspec.json.encode(output).decode()


def _complete(item: dict[str, Any], response: Response) -> bool:
    return bool(item.get("status", response.status) == "completed")


def _text_of(response: Response) -> str:
    parts = [
        part.get("text") or part.get("transcript") or ""
        for item in response.output
        if item["type"] == "message"
        for part in item.get("content") or ()
    ]
    return "".join(parts)
