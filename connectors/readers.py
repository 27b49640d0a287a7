"""Reads partitions of a stream on a background thread: one ephemeral consumer each, pulled as fast as there is room.

A consumer without acknowledgements from a stream sequence is made anew whenever anything is in doubt: after a
reconnection, a missing heartbeat, a hole in the consumer's own sequence. Nothing is read ahead beyond the bounds,
so a slow database shows as messages waiting in NATS, not as memory.
"""

import asyncio
import json
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from connectors.errors import SlateError, StreamError
from connectors.health import HEALTH
from connectors.jetstream import UNPARTITIONED, partition_filter
from connectors.messages import NatsSourceMessage
from connectors.stream_state import StreamState

if TYPE_CHECKING:
    from connectors.reader_thread import ReaderThread

_HEARTBEAT_S: Final = 1.0
_REQUEST_S: Final = 10.0
_POLL_S: Final = 5.0
_SILENT_S: Final = 10.0  # after which a reader that was not heard of has lost its partitions
_MIN_BYTES: Final = 2 << 20  # one message of the largest size, its headers and subject
_ACK: Final = b"$JS.ACK."

_log = structlog.get_logger(__name__)


class Positions(Protocol):
    """Where the partitions of a stream are resumed. Called on a thread of its own; may block."""

    def start(self, partition: int, state: StreamState) -> int:
        """The position after which to read; what the stream no longer holds is recorded as a gap."""

    def gap(self, partition: int, first: int, last: int) -> None:
        """The sequences from `first` to `last` left the stream before they were read."""

    def newest(self, state: StreamState) -> tuple[int, int] | None:
        """Sequence and time (nanoseconds since 1970) of the newest message that was read, whoever read it, None where
        that is not known.
        """

    def put_back(self, state: StreamState, last: int) -> None:
        """What the stream holds after `last` came under sequences that were read before: no position may be past it."""


def instance() -> str:
    """This process, for people: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class PartitionReader:
    """One partition. `accept`, `chunk_end` and all coroutines run on the reader thread, `take` on any one other."""

    def __init__(self, thread: "ReaderThread", partition: int) -> None:
        settings = thread.settings
        self.partition = partition
        self._part = f"reader of partition {partition}"
        self._thread = thread
        self._positions = thread.positions
        self._filter = partition_filter(partition)
        self._prefix = 0 if partition == UNPARTITIONED else len(self._filter) - len(">")
        self._limit = max(64, settings.queue_messages // settings.partitions)
        self._limit_bytes = max(_MIN_BYTES, settings.queue_bytes // settings.partitions)
        self._chunk: list[NatsSourceMessage] = []
        self._chunk_bytes = 0
        self._ready: deque[tuple[list[NatsSourceMessage], int]] = deque()
        # Each counter has one writing thread; what is queued is the difference.
        self._received = self._received_bytes = 0
        self._taken = self._taken_bytes = 0
        self._consumer = ""
        self._consumer_sequence = 0
        self._outstanding = 0
        self._heard = 0.0
        self._trouble = asyncio.Event()
        self._position = 0
        self.newest = self.newest_at = 0  # the sequence that came last, and its time, nanoseconds since 1970
        self._pending = 0  # as of the last message that was handed on to `take`
        self._pending_after = 0  # as of the last that came
        self._opened = False
        self.idle_position = 0
        self.resumed_from: int | None = None
        self.made_anew = False
        self.lost_end = False
        self._stands_by = False

    def missing(self) -> str | None:
        """Why this partition is not read, None where it is, or where we stand by because another process does."""
        if not self._thread.client.is_connected:
            return "NATS: not connected"
        if self.resumed_from is None and not self._stands_by:
            return f"partition {self.partition}: no position yet, or nobody could be asked who reads it"
        return None

    @property
    def lag(self) -> int:
        """Messages of this partition that were not handed on yet, as far as is known."""
        return self._pending + self._received - self._taken

    @property
    def drained(self) -> bool:
        """Whether it is known that there is nothing more to hand on: before a consumer says so, it is not."""
        return self._opened and self.lag == 0

    def take(self, most: int) -> list[NatsSourceMessage]:
        """Messages in stream order, about `most` at the most; empty when none is there."""
        ready = self._ready
        if not ready:
            return []
        messages, size = ready.popleft()
        while ready and len(messages) < most:
            more, more_size = ready.popleft()
            messages += more
            size += more_size
        self._taken += len(messages)
        self._taken_bytes += size
        if self._outstanding <= self._limit // 2:
            self._thread.call(self._request)
        return messages

    def accept(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """A message, or a status of the server about our request."""
        if not reply.startswith(_ACK):
            self._status(headers)
            return
        words = reply.split(b".")
        at = 5 if len(words) == 9 else 7
        if int(words[at + 1]) != self._consumer_sequence + 1:
            self._trouble.set()
            return
        self._consumer_sequence += 1
        self._outstanding -= 1
        self._position = self.newest = sequence = int(words[at])
        self.newest_at = stored_at = int(words[at + 2])
        self._pending_after = int(words[at + 3])
        text = subject[self._prefix :].decode("utf-8", "replace")
        self._chunk.append(NatsSourceMessage(text, payload, sequence, stored_at, headers))
        self._chunk_bytes += len(payload) + len(headers) + len(subject)

    def chunk_end(self) -> None:
        """Hand on what the chunk held, and ask for more when there is room."""
        self._heard = time.monotonic()
        if self._chunk:
            self._received += len(self._chunk)
            self._received_bytes += self._chunk_bytes
            self._ready.append((self._chunk, self._chunk_bytes))
            self._chunk = []
            self._chunk_bytes = 0
            self._pending = self._pending_after  # only now: what is in neither count would seem to be handed on
        self._request()

    async def run(self) -> None:
        """Read until cancelled, whatever happens to the servers."""
        await self._become_reader()
        delay = 0.1
        created: datetime | None = None
        while True:
            release: Callable[[], Awaitable[None]] | None = None
            self._beat()
            try:
                state = await self._thread.stream_state(max_age=0.0)
                if created is None:
                    await self._thread.check_end(state)
                if created != state.created:
                    HEALTH.rest(self._part)  # all may be counted anew
                    self._position = await asyncio.to_thread(self._positions.start, self.partition, state)
                    self._beat()
                    self.made_anew = created is not None
                    if created is None:
                        self.resumed_from = self._position
                        _log.info("reading partition", partition=self.partition, after=self._position)
                    created = state.created
                else:
                    await self._thread.check_end(state)
                await self._check_gap(state)
                release = await self._open(state.created)
                delay = 0.1
                await self._watch()
            except (SlateError, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
                _log.warning(
                    "cannot read partition yet",
                    partition=self.partition,
                    error=str(error) or type(error).__name__,
                    again_in_s=delay,
                )
                await asyncio.sleep(delay)
                delay = min(2.0, delay * 2)
            finally:
                self._opened = False
                if release is not None:
                    await release()

    async def _become_reader(self) -> None:
        """Wait while another process reads this partition; answer for it afterwards.

        A subscription lives as long as its connection, so a killed reader's is gone at once. One that hangs, or is
        cut off from the servers, is taken for dead when it is silent for 10 s; it may come back, and two that start
        in the same instant may both go on: the position in the database then stops one of them.
        """
        settings = self._thread.settings
        client = self._thread.client
        subject = f"slate.reader.{self._thread.purpose}.{settings.stream}.{self.partition}"
        told = False
        heard = time.monotonic()
        while True:
            self._beat()
            try:
                answer = await client.request(subject, b"", timeout=1.0)
            except nats.errors.NoRespondersError:
                break
            except (nats.errors.Error, TimeoutError):
                if not await self._thread.answered():
                    heard = time.monotonic()  # the silence is the server's
                elif time.monotonic() - heard > _SILENT_S:
                    _log.warning("taking over from a silent reader", partition=self.partition)
                    break
                await asyncio.sleep(0.2)
                continue
            heard = time.monotonic()
            self._stands_by = True
            if not told:
                _log.warning("standing by", partition=self.partition, read_by=answer.data.decode("utf-8", "replace"))
                told = True
            await asyncio.sleep(0.5)

        self._stands_by = False

        async def answer_for_it(request: Msg) -> None:
            await request.respond(instance().encode())

        await client.subscribe(subject, cb=answer_for_it)

    async def _open(self, created: datetime) -> Callable[[], Awaitable[None]]:
        """A consumer from the position on, and a lane for what it delivers.

        Raises:
            StreamError: the stream is not the one that was created then; the position is of that one.
        """
        client = self._thread.client
        self._trouble.clear()
        self._outstanding = 0
        self._consumer_sequence = 0
        self._consumer = client._nuid.next().decode()
        info = await self._thread.jetstream.add_consumer(
            self._thread.settings.stream,
            ConsumerConfig(
                name=self._consumer,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._position + 1,
                ack_policy=AckPolicy.NONE,
                filter_subject=self._filter,
                inactive_threshold=30.0,
                num_replicas=1,
                mem_storage=True,
            ),
        )
        # From here on, a consumer ends with its stream; before, it may have been made on another of that name.
        if (await self._thread.stream_state(max_age=0.0)).created != created:
            raise StreamError("the stream was made anew")
        self._inbox = client.new_inbox()
        release = await client.claim(self._inbox, self)
        self._pending = info.num_pending or 0
        self._opened = True
        self._heard = time.monotonic()
        self._request()
        return release

    def _request(self) -> None:
        """Pull as many messages as there is room for, unless enough are on their way."""
        if not self._consumer or self._trouble.is_set():
            return
        queued = self._received - self._taken
        room = self._limit - queued - self._outstanding
        room_bytes = self._limit_bytes - (self._received_bytes - self._taken_bytes)
        if self._outstanding > self._limit // 2 or room < self._limit // 4 or room_bytes < _MIN_BYTES // 2:
            return
        self._outstanding += room
        wish = {
            "batch": room,
            "max_bytes": max(room_bytes, _MIN_BYTES),
            "expires": int(_REQUEST_S * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
        }
        self._heard = time.monotonic()
        self._thread.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._thread.settings.stream}.{self._consumer}",
            json.dumps(wish).encode(),
            self._inbox,
        )

    def _status(self, headers: bytes) -> None:
        """100 is a heartbeat; 408 and 409 end a request, and say how much of it was left."""
        code = headers[9:12]
        if code == b"100":
            return
        if code not in (b"408", b"409") or b"Deleted" in headers:
            self._trouble.set()
            return
        _, found, rest = headers.partition(b"Nats-Pending-Messages: ")
        left = int(rest.split(b"\r\n", 1)[0]) if found else self._outstanding
        self._outstanding = max(0, self._outstanding - left)

    async def _watch(self) -> None:
        """Return when the consumer must be made anew; keep lag and idle position up meanwhile."""
        polled = time.monotonic()
        while True:
            self._beat()
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await self._trouble.wait()
                return
            except TimeoutError:
                now = time.monotonic()
            if self._outstanding > 0 and now - self._heard > 3.5 * _HEARTBEAT_S:
                _log.warning("no heartbeat", partition=self.partition)
                return
            if now - polled >= _POLL_S:
                polled = now
                await self._poll()

    async def _poll(self) -> None:
        """Learn the lag while nothing is read, and move an idle partition's position along with the stream."""
        state = await self._thread.stream_state()
        info = await self._thread.jetstream.consumer_info(self._thread.settings.stream, self._consumer)
        if info.delivered is not None and info.delivered.consumer_seq == self._consumer_sequence:
            self._pending = info.num_pending or 0
            if not self._pending and state.last > self._position:
                self._position = self.idle_position = state.last
        await self._check_gap(state)

    async def _check_gap(self, state: StreamState) -> None:
        if state.first > self._position + 1:
            HEALTH.rest(self._part)  # as above
            await asyncio.to_thread(self._positions.gap, self.partition, self._position + 1, state.first - 1)
            self._beat()
            self._position = state.first - 1

    def _beat(self) -> None:
        HEALTH.beat(self._part)

    def reconnected(self) -> None:
        """The connection is a new one: what was on its way is lost."""
        self._trouble.set()
