"""The dialogue with a model: one conversation over as many connections as it takes, and what it uses."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from openai import AsyncOpenAI

from connectors.tracing import OFF, Tracing
from realtime.connection import Connection, ConnectionLostError, RealtimeApiError, Response
from realtime.conversation import Conversation
from realtime.happenings import Failed, Happening, Reconnected
from realtime.steps import Steps
from realtime.usage import Usage, cost_of

ROTATE_AFTER_S: Final = 55 * 60.0
"""Age at which a connection is renewed between responses, seconds: OpenAI closes it at 60 minutes."""
CONNECT_TRIES: Final = 5
RATE_LIMIT_TRIES: Final = 3

_log = structlog.get_logger(__name__)


class Dialogue:
    """Opens connections, seeds them with the conversation, and asks for responses.

    Args:
        client: of OpenAI.
        model: of OpenAI.
        session: the `session` of each connection's `session.update`.
        safety_identifier: tells users apart without naming them.
        steps: hears what was used and what went wrong.
        tell: hears what the user may want to know.
        on_text: hears what the model says: the response's id and a little more text; two empty ones at its end.
        on_tokens: hears how many tokens a response used.
        tracing: is told of each response.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        session: Mapping[str, Any],
        *,
        safety_identifier: str,
        steps: Steps,
        tell: Callable[[Happening], None],
        on_text: Callable[[str, str], None],
        on_tokens: Callable[[int], Awaitable[None]],
        tracing: Tracing = OFF,
    ) -> None:
        self.model = model
        self._conversation = Conversation()
        self.interrupted = asyncio.Event()
        """Set while nobody waits for the answer any more."""
        self._client = client
        self._session = session
        self._safety_identifier = safety_identifier
        self._steps = steps
        self._tell = tell
        self._on_text = on_text
        self._on_tokens = on_tokens
        self._tracing = tracing
        self._connection: Connection | None = None

    @property
    def age_s(self) -> float | None:
        """How old the connection is, seconds; None if there is none."""
        connection = self._connection
        if connection is None or connection.lost is not None:
            return None
        return time.monotonic() - connection.opened_at

    async def interrupt(self) -> None:
        """End the response under way, and wait for nothing more until `interrupted` is cleared."""
        self.interrupted.set()
        if self._connection is not None:
            with contextlib.suppress(ConnectionLostError):
                await self._connection.cancel()

    async def respond(self) -> Response:
        """One response, over connections that break and limits that pass.

        Raises:
            ConnectionLostError, RealtimeApiError: there is none.
            PublishError: what it used cannot be published.
        """
        limited = busy = lost = 0
        while True:
            connection = await self._connected()
            try:
                response = await self._responded(connection)
                self._on_text("", "")
            except ConnectionLostError as error:
                self._on_text("", "")
                lost += 1
                await self._response_lost(connection, error)
                if lost >= CONNECT_TRIES or self.interrupted.is_set():
                    raise
                continue
            except RealtimeApiError as error:
                if error.code != "conversation_already_has_active_response" or busy >= RATE_LIMIT_TRIES:
                    raise
                busy += 1
                await self._pause(0.2 * busy)
                continue
            await self._count(response)
            if response.reason != "rate_limit_exceeded" or limited >= RATE_LIMIT_TRIES or self.interrupted.is_set():
                return response
            limited += 1
            wait = connection.limits_reset_s()
            self._tell(Failed("rate_limit_exceeded", response.message, retry_after_s=wait))
            await self._steps.error(response.message, code="rate_limit_exceeded", retryAfterS=round(wait, 1))
            await self._pause(wait)

    async def _responded(self, connection: Connection) -> Response:
        about = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": self.model}
        with self._tracing.begin(f"chat {self.model}", about, client=True) as span:
            try:
                response = await connection.respond()
            except RealtimeApiError as error:
                span.fail(error.code)
                raise
            span.tell({"gen_ai.response.id": response.id})
            if response.usage is not None:
                usage = Usage.of(response.usage)
                span.tell({"gen_ai.usage.input_tokens": usage.input, "gen_ai.usage.output_tokens": usage.output})
            span.outcome(response.status)
            if response.status == "failed":
                span.fail(response.reason)
            return response

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the turn is interrupted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.interrupted.wait()

    async def _response_lost(self, connection: Connection, error: ConnectionLostError) -> None:
        if connection.response_id is not None:
            about = {"model": self.model, "responseId": connection.response_id, "reason": error.reason}
            await self._steps.telemetry("usage_unknown", about)
        self._tell(Reconnected(error.reason))
        await self._steps.error(error.reason, code=str(error.code or "connection_lost"))

    async def _count(self, response: Response) -> None:
        if response.usage is None:
            about = {"model": self.model, "responseId": response.id, "reason": response.reason or response.status}
            await self._steps.telemetry("usage_unknown", about)
            return
        usage = Usage.of(response.usage)
        await self._steps.usage(
            self.model,
            usage.input,
            usage.output,
            cost_of(self.model, usage),
            responseId=response.id,
            cachedTokens=usage.cached,
            reasoningTokens=usage.reasoning,
        )
        await self._on_tokens(usage.total)

    async def _connected(self) -> Connection:
        """The connection, renewed if it is gone or old."""
        connection = self._connection
        if connection is not None and connection.lost is None:
            if time.monotonic() - connection.opened_at < ROTATE_AFTER_S:
                return connection
            await connection.close("renewed before its hour is over")
        return await self.connect()

    async def connect(self) -> Connection:
        """Open a connection and seed it.

        Raises:
            ConnectionLostError, RealtimeApiError: it cannot be opened.
        """
        for tries in range(1, CONNECT_TRIES + 1):
            try:
                connection = await Connection.open(
                    self._client,
                    self.model,
                    self._session,
                    safety_identifier=self._safety_identifier,
                    on_text=self._said,
                )
                self._connection = connection
                for item in self._conversation:
                    await connection.add(item)
            except ConnectionLostError as error:
                if tries == CONNECT_TRIES:
                    raise
                pause = min(8.0, 0.25 * 2**tries) * (0.5 + random.random())  # noqa: S311 - jitter
                _log.warning(
                    "OpenAI cannot be reached", session=self._steps.session_id, error=error.reason, again_s=pause
                )
                await asyncio.sleep(pause)
            else:
                return connection
        raise AssertionError("unreachable: the last try raises or returns")

    async def say(self, text: str) -> None:
        """Add what the user says."""
        await self._add(self._conversation.said_by_user(text))

    async def answer(self, call_id: str, name: str, arguments: str, output: str) -> None:
        """Add what came of a call."""
        await self._add(self._conversation.called(call_id, name, arguments, output))

    def keep(self, text: str) -> None:
        """Keep what the model has said, for other connections."""
        self._conversation.said_by_model(text)

    async def _add(self, item: dict[str, Any]) -> None:
        """Send an item; a connection that is gone gets it when it is seeded again."""
        if self._connection is None or self._connection.lost is not None:
            return
        try:
            await self._connection.add(item)
        except ConnectionLostError as error:
            _log.info("the connection broke between responses", session=self._steps.session_id, error=error.reason)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _said(self, delta: str) -> None:
        connection = self._connection
        self._on_text((connection.response_id if connection else None) or "", delta)
