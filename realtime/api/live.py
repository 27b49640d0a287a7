"""Sessions that browsers hold: they live in this process, each heard by any number of its user's pages."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Final

import structlog
from pydantic.alias_generators import to_camel

from connectors.errors import SlateError
from realtime.api.guard import NotFoundError
from realtime.auth import Identity, Permission
from realtime.backend import Backend
from realtime.happenings import Disconnected, Happening
from realtime.modes import Mode
from realtime.session import SparkRealtimeSession

IDLE_S: Final = 15 * 60.0
"""A session that nobody speaks to or listens to for so long is ended, seconds."""
_KEPT: Final = 500
_SWEEP_S: Final = 30.0

_log = structlog.get_logger(__name__)


class _Live:
    """A session, and who listens to it."""

    def __init__(self, session: SparkRealtimeSession, user_id: str) -> None:
        self.session = session
        self.user_id = user_id
        self.used_at = time.monotonic()
        self.listeners: set[asyncio.Queue[dict[str, Any]]] = set()
        self.past: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._number = 0
        self.pump = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        async for happening in self.session:
            self._number += 1
            told = {"id": self._number, **_told(happening)}
            self.past.append(told)
            for queue in self.listeners:
                if queue.full():  # a page that does not read: it hears the rest
                    queue.get_nowait()
                queue.put_nowait(told)

    async def listen(self, after: int) -> AsyncIterator[dict[str, Any]]:
        """What happens, from what is remembered after a number on."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_KEPT)
        for told in self.past:
            if told["id"] > after:
                queue.put_nowait(told)
        self.listeners.add(queue)
        try:
            while True:
                told = await queue.get()
                yield told
                if told["type"] == "Disconnected":
                    return
        finally:
            self.listeners.discard(queue)
            self.used_at = time.monotonic()


class LiveSessions:
    """The sessions of this process, as a context manager that ends them all."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sessions: dict[str, _Live] = {}
        self._sweeper = asyncio.create_task(self._sweep())

    async def start(self, token: str, *, model: str, mode: Mode | None, project: str | None) -> SparkRealtimeSession:
        """Begin a session of the token's user.

        Raises:
            SlateError: as `SparkRealtimeSession.connect`.
        """
        session = SparkRealtimeSession(token=token, model=model, mode=mode, project=project, backend=self._backend)
        await session.connect()
        self._sessions[session.session_id] = _Live(session, session.user_id)
        return session

    def of(self, identity: Identity, session_id: str) -> _Live:
        """A session that someone may use.

        Raises:
            NotFoundError: it is not in this process, over, or another user's.
        """
        live = self._sessions.get(session_id)
        if live is None or (live.user_id != identity.user_id and not identity.allows(Permission.ADMIN)):
            raise NotFoundError(f"there is no live session {session_id[:60]!r} here")
        live.used_at = time.monotonic()
        return live

    async def end(self, session_id: str) -> None:
        """End a session and tell its listeners."""
        live = self._sessions.pop(session_id, None)
        if live is None:
            return
        try:
            await live.session.disconnect()
        except SlateError as error:
            _log.warning("a session did not end as it should", session=session_id, error=str(error))
        await asyncio.gather(live.pump, return_exceptions=True)

    async def close(self) -> None:
        """End all."""
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, *(self.end(one) for one in list(self._sessions)), return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            old = time.monotonic() - IDLE_S
            for session_id, live in list(self._sessions.items()):
                if live.used_at < old and not live.listeners:
                    _log.info("a session is idle and ended", session=session_id)
                    await self.end(session_id)


def _told(happening: Happening) -> dict[str, Any]:
    fields = {} if isinstance(happening, Disconnected) else asdict(happening)
    return {"type": type(happening).__name__, **{to_camel(name): value for name, value in fields.items()}}
