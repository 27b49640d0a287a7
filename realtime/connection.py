"""One connection to the OpenAI Realtime API: from `session.update` until it closes.

The client library's own reconnecting is not used: it opens an empty session, without tools and speaking. A connection
that is lost stays lost; whoever has the conversation opens another and seeds it (`realtime.session`).

Events are told apart by their `type` alone, as the API adds some. Only `response.done` says what a response was: the
events before it also come for what is then cut off.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self, cast

import msgspec
import structlog
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.websocket_connection_options import WebSocketConnectionOptions
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from connectors.errors import SlateError

OPEN_TIMEOUT_S: Final = 15.0
"""How long connecting and each answer to `session.update` may take, seconds."""
RESPONSE_TIMEOUT_S: Final = 120.0
"""How long nothing may come of a response, seconds."""
FATAL: Final = frozenset(("insufficient_quota", "invalid_api_key", "model_not_found", "account_deactivated"))
"""Codes of errors that trying again does not change."""

_quiet = logging.getLogger("realtime.websocket")
_quiet.setLevel(logging.WARNING)  # below it the library logs our key with the other headers
_SOCKET: Final = cast(
    WebSocketConnectionOptions,
    {"ping_interval": 20.0, "ping_timeout": 20.0, "max_size": 16 << 20, "logger": _quiet},
)

_log = structlog.get_logger(__name__)


class ConnectionLostError(SlateError):
    """The connection is gone; another one may be opened."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(f"the connection to OpenAI is lost: {reason}")
        self.reason = reason
        self.code = code


class RealtimeApiError(SlateError):
    """OpenAI refuses something; `code` is its word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"OpenAI: {message}" if code in message else f"OpenAI: {message} ({code})")
        self.code = code

    @property
    def fatal(self) -> bool:
        """Whether trying again changes nothing."""
        return self.code in FATAL


class Response(NamedTuple):
    """How a response ended."""

    id: str
    status: str
    """completed, incomplete, cancelled or failed."""
    reason: str
    """Why it is not completed: OpenAI's word."""
    message: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class Connection:
    """An open session. `lost` is set once it has closed, by whomever."""

    def __init__(self, socket: AsyncRealtimeConnection, on_text: Callable[[str], None]) -> None:
        self._socket = socket
        self._on_text = on_text
        self._ids = itertools.count(1)
        self._updated: asyncio.Future[None] | None = None
        self._response: asyncio.Future[Response] | None = None
        self._request = ""
        self._heard_at = 0.0
        self._resets: dict[str, float] = {}
        self.response_id: str | None = None
        """Of the response under way, once it has one."""
        self.opened_at = time.monotonic()
        self.lost: ConnectionLostError | None = None
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls,
        client: AsyncOpenAI,
        model: str,
        session: Mapping[str, Any],
        *,
        safety_identifier: str,
        on_text: Callable[[str], None],
    ) -> Self:
        """Connect, set the session up and wait until it is as it should be.

        Raises:
            ConnectionLostError: OpenAI cannot be reached, or closed at once.
            RealtimeApiError: it refuses the key, the model or the session.
        """
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                socket = await client.realtime.connect(
                    model=model,
                    extra_headers={"OpenAI-Safety-Identifier": safety_identifier},
                    websocket_connection_options=_SOCKET,
                ).enter()
        except InvalidStatus as error:
            raise _refused(error.response.status_code, error.response.body) from None
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as error:
            raise ConnectionLostError(f"it cannot be opened ({type(error).__name__})") from None
        connection = cls(socket, on_text)
        try:
            await connection._update(session)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _update(self, session: Mapping[str, Any]) -> None:
        self._updated = asyncio.get_running_loop().create_future()
        await self._send({"type": "session.update", "session": dict(session)})
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._updated
        except TimeoutError:
            raise ConnectionLostError("session.update was not answered") from None
        finally:
            self._updated = None

    async def add(self, item: Mapping[str, Any]) -> None:
        """Add an item to the conversation.

        Raises:
            ConnectionLostError: it is gone.
        """
        await self._send({"type": "conversation.item.create", "item": dict(item)})

    async def respond(self) -> Response:
        """Have the model respond to the conversation, and wait until it has.

        Raises:
            ConnectionLostError: it is gone; what the response used is unknown if it had begun (`response_id`).
            RealtimeApiError: there is no response.
        """
        if self.lost is not None:
            raise self.lost
        self._response = asyncio.get_running_loop().create_future()
        self.response_id = None
        self._heard_at = time.monotonic()
        try:
            self._request = await self._send({"type": "response.create"})
            while True:
                left = self._heard_at + RESPONSE_TIMEOUT_S - time.monotonic()
                done, _ = await asyncio.wait([self._response], timeout=max(left, 0.001))
                if done:
                    return self._response.result()
                if time.monotonic() - self._heard_at >= RESPONSE_TIMEOUT_S:
                    await self.close("nothing came of a response")
        finally:
            self._response = None

    async def cancel(self) -> None:
        """End the response under way, if there is one."""
        if self._response is not None and self.lost is None:
            await self._send({"type": "response.cancel"})

    def limits_reset_s(self) -> float:
        """How long until OpenAI's limits are as good as new, seconds: 1 to 60."""
        now = time.monotonic()
        return min(max([1.0, *(until - now for until in self._resets.values())]), 60.0)

    async def close(self, reason: str = "closed by us") -> None:
        """Close it."""
        self._end(ConnectionLostError(reason, 1000))
        self._reader.cancel()
        try:
            async with asyncio.timeout(5.0):
                await self._socket.close()
        except (OSError, TimeoutError, WebSocketException):
            pass
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _send(self, event: dict[str, Any]) -> str:
        if self.lost is not None:
            raise self.lost
        event["event_id"] = event_id = f"spark_{next(self._ids)}"
        try:
            await self._socket.send_raw(msgspec.json.encode(event).decode())
        except ConnectionClosed as error:
            raise self._end(_lost(error)) from None
        return event_id

    async def _read(self) -> None:
        try:
            while True:
                self._heard(msgspec.json.decode(await self._socket.recv_bytes()))
        except ConnectionClosed as error:
            self._end(_lost(error))
        except msgspec.DecodeError:
            self._end(ConnectionLostError("it sent what is no JSON"))
            await self._socket.close()

    def _heard(self, event: dict[str, Any]) -> None:
        self._heard_at = time.monotonic()
        match event.get("type"):
            case "response.output_text.delta" | "response.output_audio_transcript.delta":
                self._on_text(event["delta"])
            case "response.created":
                self.response_id = event["response"]["id"]
            case "response.done":
                if self._response is not None and not self._response.done():
                    self._response.set_result(_response(event["response"]))
            case "session.updated":
                if self._updated is not None and not self._updated.done():
                    self._updated.set_result(None)
            case "rate_limits.updated":
                for limit in event["rate_limits"]:
                    until = time.monotonic() + float(limit.get("reset_seconds") or 0.0)
                    self._resets[str(limit.get("name"))] = until
            case "error":
                self._failed(event["error"])

    def _failed(self, error: Mapping[str, Any]) -> None:
        code = str(error.get("code") or error.get("type") or "unknown")
        if code == "response_cancel_not_active":
            return
        raised = RealtimeApiError(code, str(error.get("message") or "no reason was given")[:500])
        if code == "session_expired":
            self._end(ConnectionLostError("the session has expired", 1001))
        elif self._updated is not None and not self._updated.done():
            self._updated.set_exception(raised)
        elif (
            self._response is not None
            and not self._response.done()
            and (error.get("event_id") == self._request or raised.fatal)
        ):
            self._response.set_exception(raised)
        else:
            # Others are about an item, or come amid a response, which goes on or ends by `response.done`.
            _log.warning("OpenAI reports an error", code=code, error=str(raised))

    def _end(self, lost: ConnectionLostError) -> ConnectionLostError:
        if self.lost is None:
            self.lost = lost
            for future in (self._updated, self._response):
                if future is not None and not future.done():
                    future.set_exception(lost)
        return self.lost


def _response(body: Mapping[str, Any]) -> Response:
    details = body.get("status_details") or {}
    error = details.get("error") or {}
    return Response(
        str(body["id"]),
        str(body["status"]),
        str(error.get("code") or error.get("type") or details.get("reason") or ""),
        str(error.get("message") or ""),
        list(body.get("output") or ()),
        body.get("usage"),
    )


def _lost(error: ConnectionClosed) -> ConnectionLostError:
    frame = error.rcvd or error.sent
    if frame is None:
        return ConnectionLostError("it broke off", 1006)
    return ConnectionLostError(f"closed with {frame.code} {frame.reason}".rstrip(), frame.code)


def _refused(status: int, body: bytes | None) -> SlateError:
    code = "invalid_api_key" if status in (401, 403) else "http_error"
    if status == 404:
        code = "model_not_found"
    with contextlib.suppress(msgspec.DecodeError, KeyError):
        code = msgspec.json.decode(body or b"", type=dict[str, dict[str, Any]])["error"].get("code") or code
    if status == 429 or status >= 500:
        return ConnectionLostError(f"it takes no connection now ({status})")
    return RealtimeApiError(code, f"the connection is refused ({status}): check OPENAI_REALTIME_API_KEY and the model")
