"""A TCP proxy that breaks on command: what networks do to a connection, without patching either side."""

import asyncio
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards a local port to another, until told otherwise. A context manager.

    `cut` resets every connection; `cut_after_request` lets the next bytes through to the server, swallows its
    answer and then cuts, so that the client cannot know what became of its request; `refuse` turns new
    connections away. `delay_s` is how long each byte is on its way, either way. While `swallow` is set, what is sent is
    lost and nobody is told; a connection that lost something passes nothing on any more.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallow = False
        self.refuse = False
        self.swallow = False
        self.delay_s = 0.0
        self.port = 0
        self.cuts = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection now."""
        self._loop.call_soon_threadsafe(self._cut)

    def cut_after_request(self) -> None:
        """Deliver the next request, lose its answer, and cut."""
        self._swallow = True

    def _cut(self) -> None:
        self.cuts += 1
        self._swallow = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def _stop(self) -> None:
        self._server.close()
        self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back, answers=False), self._pump(there, writer, answers=True))
        finally:
            for one in (writer, back):
                self._writers.discard(one)
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            lost = False
            while data := await reader.read(65_536):
                if answers and self._swallow:
                    self._cut()
                    return
                lost = lost or self.swallow
                if lost:
                    continue
                if self.delay_s:
                    self._loop.call_later(self.delay_s, _send, writer, data)
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)
