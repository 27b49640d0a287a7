"""A browser's connection to NATS: the protocol in WebSocket frames, and nothing that would help it on."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.secure_nats import ORIGIN, SecureNats

_WAIT_S: Final = 10.0


class RefusedError(Exception):
    """NATS did not let it in."""


class NatsBrowser:
    """A connection. `errors` are what NATS said it may not, `messages` subjects and payloads that came."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._buffer = b""
        self.errors: list[str] = []
        self.messages: list[tuple[str, bytes]] = []
        self.closed = asyncio.Event()

    async def enter(self, **options: Any) -> None:
        """Say who it is.

        Raises:
            RefusedError: it is not let in.
        """
        assert (await self._line()).startswith("INFO ")
        told = {"verbose": False, "pedantic": False, "lang": "test", "version": "1", "protocol": 1, **options}
        await self.send(f"CONNECT {json.dumps(told)}", "PING")
        try:
            while (line := await self._line()) != "PONG":
                if line.startswith("-ERR"):
                    raise RefusedError(line)
        except ConnectionClosed as error:
            raise RefusedError(str(error)) from None
        self._reading = asyncio.create_task(self._read())

    async def send(self, *lines: str) -> None:
        """Lines of the protocol."""
        await self._socket.send("".join(f"{line}\r\n" for line in lines).encode())

    async def subscribe(self, subject: str, number: int = 1) -> None:
        """Ask to hear a subject, and wait until NATS has judged it."""
        self._pong = asyncio.Event()
        await self.send(f"SUB {subject} {number}", "PING")
        await self._wait(self._pong)

    async def publish(self, subject: str) -> None:
        """Try to publish, and wait until NATS has judged it."""
        self._pong = asyncio.Event()
        await self.send(f"PUB {subject} 2", "{}", "PING")
        await self._wait(self._pong)

    async def hear(self, count: int) -> list[tuple[str, bytes]]:
        """The first messages."""
        async with asyncio.timeout(_WAIT_S):
            while len(self.messages) < count:  # noqa: ASYNC110 - filled by the reader
                await asyncio.sleep(0.01)
        return self.messages[:count]

    async def _wait(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(_WAIT_S):
            await event.wait()

    async def _read(self) -> None:
        try:
            while True:
                line = await self._line(None)
                if line == "PING":
                    await self.send("PONG")
                elif line == "PONG":
                    self._pong.set()
                elif line.startswith("-ERR"):
                    self.errors.append(line)
                elif found := re.match(r"H?MSG (\S+) .*?(\d+)$", line):
                    self.messages.append((found[1], (await self._bytes(int(found[2]) + 2))[:-2]))
        except ConnectionClosed:
            self.closed.set()

    async def _line(self, seconds: float | None = _WAIT_S) -> str:
        async with asyncio.timeout(seconds):
            while b"\r\n" not in self._buffer:
                await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode()

    async def _bytes(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    async def _more(self) -> None:
        frame = await self._socket.recv()
        self._buffer += frame if isinstance(frame, bytes) else frame.encode()

    def end(self) -> None:
        """Stop reading."""
        if hasattr(self, "_reading"):
            self._reading.cancel()


@asynccontextmanager
async def browser(
    secure: SecureNats, *, origin: str | None = ORIGIN, url: str | None = None, **options: Any
) -> AsyncIterator[NatsBrowser]:
    """One that is let in; `options` are of its CONNECT: `user` and `pass`."""
    address = url or secure.websocket
    context = ssl.create_default_context(cafile=secure.ca_file) if address.startswith("wss:") else None
    async with connect(address, ssl=context, origin=origin, open_timeout=_WAIT_S, proxy=None) as socket:  # type: ignore[arg-type]
        found = NatsBrowser(socket)
        try:
            await found.enter(**options)
            yield found
        finally:
            found.end()
