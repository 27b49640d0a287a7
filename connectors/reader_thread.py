"""The thread on which a process reads its partitions, and what its readers share: connection, extent, clock."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec
import nats.errors
import structlog
from nats.js import JetStreamContext

from connectors import metrics
from connectors.jetstream import connect
from connectors.lanes import LaneClient
from connectors.readers import PartitionReader, Positions
from connectors.settings import Settings
from connectors.stream_end import last_kept
from connectors.stream_state import StreamState, stream_state

_CLOCK_EVERY_S: Final = 15.0

_log = structlog.get_logger(__name__)


class _Told(msgspec.Struct):
    """Of what JetStream answers: its time."""

    ts: datetime


class ReaderThread:
    """The asyncio loop, the connection and the readers of one process. `purpose` names who reads (`ingest`)."""

    def __init__(self, settings: Settings, purpose: str, positions: Positions) -> None:
        self.settings = settings
        self.purpose = purpose
        self.positions = positions
        self.client = LaneClient()
        metrics.NATS_UP.set_function(lambda: self.client.is_connected)
        self.jetstream: JetStreamContext
        self._loop = asyncio.new_event_loop()
        self._readers: list[PartitionReader] = []
        self._state: tuple[float, StreamState] | None = None
        self._state_lock = asyncio.Lock()
        self._end_lock = asyncio.Lock()
        self._read_before: tuple[int, int] | None = None
        self._told_of_more = False
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"nats-{purpose}", daemon=True)
        self._thread.start()

    def read(self, partition: int) -> PartitionReader:
        """Begin to read a partition."""
        reader = PartitionReader(self, partition)
        self._readers.append(reader)
        self.call(lambda: self._tasks.append(self._loop.create_task(self._run(reader))))
        return reader

    def call(self, what: Callable[[], object]) -> None:
        """Run something on the loop."""
        self._loop.call_soon_threadsafe(what)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send without waiting; the library's own send is a coroutine only for its back-pressure."""
        task = self._loop.create_task(self.client.publish(subject, payload, reply=reply))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    async def stream_state(self, max_age: float = 1.0) -> StreamState:
        """The stream's extent, at most so many seconds old: readers of one process ask together."""
        async with self._state_lock:
            now = time.monotonic()
            if self._state is None or now - self._state[0] > max_age:
                state = await stream_state(self.jetstream, self.settings.stream)
                self._state = (now, state)
                self._compare(state)
            return self._state[1]

    async def answered(self) -> bool:
        """Whether the server answers now."""
        try:
            await self.client.flush(timeout=1)
        except (nats.errors.Error, TimeoutError, OSError):
            return False
        return True

    def _compare(self, state: StreamState) -> None:
        """Say, once, that the stream has partitions which nobody reads who has our settings."""
        if state.partitions is None:
            return
        metrics.STREAM_PARTITIONS.set(state.partitions)
        more = state.partitions > self.settings.partitions
        if more and not self._told_of_more:
            _log.error(
                "the stream has more partitions than this worker knows: what is in the others waits",
                stream=self.settings.stream,
                partitions=state.partitions,
                remedy=f"set SLATE_PARTITIONS={state.partitions}, and restart workers one by one",
            )
        self._told_of_more = more

    async def _watch_clock(self) -> None:
        """See how far our clock is ahead of the server's: by the latter it tells which events are from the future."""
        while True:
            try:
                said = await self.client.request(f"$JS.API.STREAM.INFO.{self.settings.stream}", b"", timeout=5)
                told = msgspec.json.decode(said.data, type=_Told)
            except (nats.errors.Error, msgspec.MsgspecError, TimeoutError, OSError):
                pass
            else:
                metrics.CLOCK_AHEAD.labels(server="nats").set(time.time() - told.ts.timestamp())
            await asyncio.sleep(_CLOCK_EVERY_S)

    async def check_end(self, state: StreamState) -> None:
        """Put all positions back where the stream has lost its end, as what was read last tells, by us or before us.

        Partitions that are being read end then, to begin anew from there.

        Raises:
            SlateError: positions could not be seen, or not put back.
        """
        async with self._end_lock:
            if any(reader.lost_end for reader in self._readers):
                return
            if self._read_before is None:
                self._read_before = await asyncio.to_thread(self.positions.newest, state) or (0, 0)
            newest, newest_at = max(self._read_before, *((one.newest, one.newest_at) for one in self._readers))
            if not newest:
                return
            kept = await last_kept(self.jetstream, lambda: self.stream_state(max_age=0.0), newest, newest_at)
            if kept is None:
                return
            _log.error("the stream lost its end", stream=state.stream, was=newest, kept=kept)
            await asyncio.to_thread(self.positions.put_back, state, kept)
            self._read_before = None
            for reader in self._readers:
                reader.lost_end = reader.resumed_from is not None

    def stop(self) -> None:
        """End all readers and the connection."""
        if self._thread.is_alive():
            self.call(self._main_task.cancel)
            self._thread.join(5)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            for reader in self._readers:
                reader.reconnected()

    async def _run(self, reader: PartitionReader) -> None:
        await self._ready.wait()
        await reader.run()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._main_task = self._loop.create_task(self._serve())
        try:
            self._loop.run_until_complete(self._main_task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async def reconnected() -> None:
            self._state = None
            for reader in self._readers:
                reader.reconnected()

        await connect(self.settings, f"slate-{self.purpose}", client=self.client, wait=True, reconnected_cb=reconnected)
        self.jetstream = self.client.jetstream(timeout=5)
        self._tasks.append(self._loop.create_task(self._watch_clock()))
        self._ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.client.close()
