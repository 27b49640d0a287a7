"""Server-Sent Events: what a page sees without asking again."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse

from connectors.errors import SlateError
from connectors.limits import LimitExceededError

EVERY_S: Final = 1.0
"""How often it is looked for changes, seconds; what is read is shared by all who watch the same."""
HEARTBEAT_S: Final = 15.0
STREAMS: Final = 8
"""Streams of a user at a time, in this process."""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_log = structlog.get_logger(__name__)


class Streams:
    """Counts streams by user."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def admit(self, user_id: str) -> None:
        """Take a place.

        Raises:
            LimitExceededError: the user has too many.
        """
        if self._open.get(user_id, 0) >= STREAMS:
            raise LimitExceededError("streams", STREAMS, f"{STREAMS} streams at a time", 1.0)
        self._open[user_id] = self._open.get(user_id, 0) + 1

    def leave(self, user_id: str) -> None:
        """Give it back."""
        self._open[user_id] -= 1
        if not self._open[user_id]:
            del self._open[user_id]

    def answer(self, request: Request, user_id: str, events: AsyncGenerator[bytes, None]) -> StreamingResponse:
        """A stream of a user, for as long as they read.

        Raises:
            LimitExceededError: the user has too many.
        """
        self.admit(user_id)
        return StreamingResponse(
            self._while_read(request, user_id, events),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _while_read(
        self, request: Request, user_id: str, events: AsyncGenerator[bytes, None]
    ) -> AsyncIterator[bytes]:
        following: asyncio.Future[bytes] | None = None
        try:
            while not await request.is_disconnected():
                following = following or asyncio.ensure_future(anext(events, b""))
                if not (await asyncio.wait([following], timeout=EVERY_S))[0]:
                    continue
                body, following = following.result(), None
                if not body:
                    return
                yield body
        finally:
            self.leave(user_id)
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await events.aclose()


async def changes(load: Callable[[], Awaitable[bytes]], event: str) -> AsyncGenerator[bytes, None]:
    """JSON as it is now, and again whenever it has changed."""
    last, quiet = b"", 0.0
    while True:
        try:
            body = await load()
        except SlateError as error:
            yield _event("trouble", _encode({"error": str(error)}))
            body = last = b""
        digest = hashlib.blake2b(body, digest_size=16).digest()
        if body and digest != last:
            last, quiet = digest, 0.0
            yield _event(event, body)
        elif quiet >= HEARTBEAT_S:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(EVERY_S)
        quiet += EVERY_S


async def told(happenings: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    """What happens in a live session."""
    async for happening in happenings:
        yield _event("happening", _encode(happening), happening["id"])


def _event(name: str, data: bytes, number: int | None = None) -> bytes:
    """One event; JSON of ours has no line breaks."""
    identity = b"" if number is None else b"id: %d\n" % number
    return identity + b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
