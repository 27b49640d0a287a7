"""Events on their way to JetStream, kept on disk until it has them.

Guarantee: an event that `put` accepted is stored in the stream at least once, and once under its message id (JetStream
drops repetitions within two minutes, the database however late they come); events of a session in the order in which
they were put. That holds through NATS being away for as long as the disk has room, and through kill -9 at any instant:
what a process leaves is sent by the next one on the same directory (see `connectors.journal`). A message that JetStream
refuses goes to `spark.dlq`.
"""

import asyncio
import contextvars
import random
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError
from prometheus_client import Counter, Gauge, Histogram

from connectors.errors import ConnectionFailedError, PublishError
from connectors.jetstream import ACCOUNT_FULL, connect
from connectors.journal import Journal, Record, Segment
from connectors.outgoing import MAX_PAYLOAD, letter, problem, size
from connectors.settings import Settings
from connectors.tracing import OFF, TRACEPARENT, TRACESTATE, Span, Tracing

DEAD_LETTERS: Final = "spark.dlq"
"""Where a message goes that JetStream refuses."""
WINDOW_RECORDS: Final = 2048
WINDOW_BYTES: Final = 16 << 20
"""How much is read ahead of the acknowledgements: the memory that NATS being away costs."""
RESEND_AFTER_S: Final = 2.0
"""How long an acknowledgement may take before the event is sent again, seconds."""
ADOPT_EVERY_S: Final = 10.0
"""How often it is looked for what processes have left, seconds."""
_TRIES: Final = 3
_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 2.0
_RECONNECT_S: Final = 5.0
_YIELD_EVERY: Final = 32

PUBLISHED: Final = Counter("spark_outbox_published", "Events that JetStream has acknowledged")
REJECTED: Final = Counter("spark_outbox_rejected", "Events that JetStream refused and spark.dlq holds")
PENDING: Final = Gauge("spark_outbox_pending", "Events that JetStream has not acknowledged yet")
BYTES: Final = Gauge("spark_outbox_bytes", "Size of the files that hold them")
MAX_BYTES: Final = Gauge("spark_outbox_max_bytes", "How large they may become (SLATE_SPILL_MAX_BYTES)")
ACK_SECONDS: Final = Histogram(
    "spark_outbox_ack_seconds",
    "From the acceptance of an event to JetStream's acknowledgement",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

_log = structlog.get_logger(__name__)


class _RefusedError(Exception):
    """JetStream will not take this message, however often it is sent."""


class Outbox:
    """Accepts events at once, and publishes them in the background, one at a time of each session (last token).

    An async context manager, for one event loop. `held` events of `held_bytes` are in memory now.
    """

    def __init__(self, settings: Settings, journal: Journal, tracing: Tracing = OFF) -> None:
        self._settings = settings
        self._journal = journal
        self._tracing = tracing
        self._queues: dict[str, deque[tuple[Segment, Record]]] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._others: list[asyncio.Task[None]] = []
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._up = asyncio.Event()
        self._idle = asyncio.Event()
        self._closed = self._stopping = False
        self._troubled: str | None = None
        self._refusal: str | None = None
        self._attempts: set[asyncio.Timeout] = set()
        self._puts = 0
        self._shown = (0, 0)
        self.held = self.held_bytes = 0

    @classmethod
    async def open(
        cls, settings: Settings, directory: Path, *, max_bytes: int = 1 << 30, tracing: Tracing = OFF
    ) -> Self:
        """Take over what earlier processes have left in a directory, and begin to send. NATS may be away.

        Processes of a machine may share the directory; this one keeps `max_bytes` there at most. `tracing` is told of
        each event that is put within a span, or comes with a `traceparent`; that is kept on disk with it.

        Raises:
            ConfigurationError: no NATS is set, or the directory cannot be written.
        """
        settings.nats_servers()
        outbox = cls(settings, Journal(directory, max_bytes), tracing)
        MAX_BYTES.set(max_bytes)
        try:
            await outbox._adopt()
        except BaseException:
            outbox._journal.close()
            raise
        outbox._others = [asyncio.create_task(one) for one in (outbox._stay_connected(), outbox._keep_adopting())]
        return outbox

    @property
    def pending(self) -> int:
        """Events that are not acknowledged, those adopted from other processes included."""
        return self._journal.pending

    @property
    def connected(self) -> bool:
        """Whether NATS is there now."""
        return self._client is not None and self._client.is_connected

    async def put(self, subject: str, payload: bytes, *, msg_id: str, headers: dict[str, str] | None = None) -> None:
        """Accept an event of at most 1 MiB: when this returns it is in a file. Does not wait for NATS.

        `msg_id` is the same however often the event is put. A put that is cancelled may have accepted it.

        Raises:
            PublishError: it is not accepted: it is no event, there is no room, or the outbox is closed.
        """
        if self._closed:
            raise PublishError(f"{subject}: the outbox is closed")
        if (why := problem(subject, payload, msg_id, headers)) is not None:
            raise PublishError(f"{subject!r}: {why}")
        if not headers or TRACEPARENT not in headers:
            headers = self._tracing.carry(headers)
        self._journal.append(Record(subject, msg_id, payload, headers, time.time_ns()))
        self._pump()
        self._puts += 1
        if self._puts % _YIELD_EVERY == 0:
            await asyncio.sleep(0)  # a caller in a loop must not keep the events from being sent

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - callers want the error that counts them
        """Wait until everything is acknowledged, for `timeout` seconds at most.

        Raises:
            PublishError: it is not; says how many events are left.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            raise PublishError(
                f"{self.pending} events are not acknowledged after {timeout:g} s; they stay on disk. "
                "Check that NATS answers at NATS_URL and has the stream (`slate doctor`)"
            ) from None

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - likewise
        """Send what can be sent within `timeout` seconds, and leave the rest on disk for the next process."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("events stay on disk for the next start", events=self.pending)
        finally:
            self._stopping = True
            for task in self._others:
                task.cancel()  # once: a second one would interrupt them while they tidy up
            while self._senders:
                for task in self._senders:
                    task.cancel()  # until it is heard: the library swallows one now and then
                await asyncio.wait(self._senders, timeout=0.1)
            await asyncio.gather(*self._others, return_exceptions=True)
            self._journal.close()
            self._show(0, 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _pump(self) -> None:
        """Read what the window has room for, and see to it that each session's queue is sent."""
        while self.held < WINDOW_RECORDS and self.held_bytes + MAX_PAYLOAD <= WINDOW_BYTES and not self._stopping:
            found = self._journal.read()
            if found is None:
                break
            self.held += 1
            self.held_bytes += len(found[1].payload)
            session = found[1].subject.rpartition(".")[2]
            if session not in self._queues:
                self._queues[session] = deque()
                self._start(session)
            self._queues[session].append(found)
        if self._journal.pending:
            self._idle.clear()
        else:
            self._idle.set()
        self._show(self._journal.pending, self._journal.bytes)

    def _start(self, session: str) -> None:
        if not self._stopping:
            # Not in the context of whoever put first: a sender goes on for others, and their traces are not that one.
            task = asyncio.create_task(self._send_in_order(session), context=contextvars.Context())
            self._senders.add(task)
            task.add_done_callback(lambda ended: self._ended(ended, session))

    def _ended(self, task: asyncio.Task[None], session: str) -> None:
        self._senders.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and not self._stopping:
            _log.error("a sender ended early; it is started again", error=repr(error))
            asyncio.get_running_loop().call_later(_LONGEST_DELAY_S, self._start, session)

    async def _send_in_order(self, session: str) -> None:
        queue = self._queues[session]
        while queue:
            segment, record = queue[0]
            with self._tracing.publish(record) as span:
                delivered = await self._deliver(record, span)
            queue.popleft()
            self.held -= 1
            self.held_bytes -= len(record.payload)
            if delivered:
                self._journal.acknowledge(segment)
            self._pump()
        del self._queues[session]

    async def _deliver(self, record: Record, span: Span) -> bool:
        """Publish an event, or its dead letter; False where neither can be, and it stays on disk."""
        try:
            headers = self._tracing.carry(record.headers) or {}
            await self._publish(record.subject, record.payload, headers, record.msg_id)
        except _RefusedError as refused:
            span.fail("refused")
            about: dict[str, Any] = {"subject": record.subject, "msg_id": record.msg_id, "error": str(refused)}
            told = letter(record, str(refused))
            try:
                await self._publish(DEAD_LETTERS, told, self._tracing.carry({}) or {}, f"dlq:{record.msg_id}")
            except _RefusedError:
                _log.error("NATS refuses an event and its dead letter; it stays on disk", **about)
                return False
            REJECTED.inc()
            _log.error("NATS refused an event; it is in spark.dlq", **about)
            return True
        PUBLISHED.inc()
        ACK_SECONDS.observe(max(0, time.time_ns() - record.accepted_ns) / 1e9)
        return True

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str], msg_id: str) -> None:
        """Send a message until it is acknowledged.

        Raises:
            _RefusedError: it never will be.
        """
        headers = {**headers, "Nats-Msg-Id": msg_id}
        refusals, delay = 0, _FIRST_DELAY_S
        while not self._stopping:
            await self._up.wait()
            try:
                await self._attempt(subject, payload, headers)
            except _RefusedError:
                self._calm(msg_id)
                raise
            except BadRequestError as error:
                refusals += error.err_code != ACCOUNT_FULL
                if refusals == _TRIES:
                    self._calm(msg_id)
                    raise _RefusedError(f"{error.description} ({error.err_code})") from None
            except Exception as error:  # noqa: BLE001 - whatever the library raises, the event is on disk and sent again
                if self._troubled is None:
                    self._troubled = msg_id
                    why = self._refusal or str(error) or type(error).__name__
                    _log.warning("events wait on disk", error=why, events=self.pending)
            else:
                self._calm(msg_id)
                return
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            delay = min(2 * delay, _LONGEST_DELAY_S)
        raise asyncio.CancelledError

    def _calm(self, msg_id: str) -> None:
        if self._troubled == msg_id:
            self._troubled = self._refusal = None
            _log.info("events are taken again", events=self.pending)

    async def _attempt(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Publish a message and wait for its acknowledgement."""
        assert self._jetstream is not None and self._client is not None  # noqa: S101, PT018 - `_up` says so
        if size(payload, headers) > self._client.max_payload:  # an event is worth more than its trace
            headers = {name: value for name, value in headers.items() if name not in (TRACEPARENT, TRACESTATE)}
        if (whole := size(payload, headers)) > self._client.max_payload:  # the server would end the connection
            raise _RefusedError(f"{whole} bytes are above the limit of {self._client.max_payload} of NATS")
        async with asyncio.timeout(2 * RESEND_AFTER_S) as attempt:  # the library's own is for the answer only
            self._attempts.add(attempt)
            try:
                await self._jetstream.publish(subject, payload, timeout=RESEND_AFTER_S, headers=headers)
            except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
                raise _RefusedError(str(error)) from None
            finally:
                self._attempts.discard(attempt)

    async def _stay_connected(self) -> None:
        async def came() -> None:
            self._up.set()

        async def went() -> None:
            self._up.clear()
            for attempt in self._attempts:
                if not attempt.expired():
                    attempt.reschedule(0)  # no answer will come

        def refused(words: str) -> None:
            self._refusal = words

        while True:
            client = Client()
            try:
                await connect(
                    self._settings,
                    "slate-outbox",
                    client=client,
                    wait=True,
                    refused=refused,
                    reconnected_cb=came,
                    disconnected_cb=went,
                )
                self._client, self._jetstream = client, client.jetstream()
                self._up.set()
                await _lost(client)
                _log.warning("the connection to NATS does not come back; making another")
            except ConnectionFailedError as error:
                _log.warning("cannot connect to NATS", error=str(error))
            except Exception:  # noqa: BLE001 - without a connection nothing is ever sent
                _log.exception("connecting to NATS failed: this is a fault of the program")
            finally:
                await went()
                await _drop(client)
            await asyncio.sleep(random.uniform(0.5, 1))  # noqa: S311 - spreads load

    async def _keep_adopting(self) -> None:
        while True:
            await asyncio.sleep(ADOPT_EVERY_S)
            try:
                await self._adopt()
            except OSError as error:
                _log.warning("cannot see what other processes have left", error=str(error))

    async def _adopt(self) -> None:
        if count := await self._journal.adopt():
            _log.info("sending what an earlier process has left", events=count)
        self._pump()

    def _show(self, pending: int, size: int) -> None:
        """Add what has changed to the gauges, which several outboxes share."""
        PENDING.inc(pending - self._shown[0])
        BYTES.inc(size - self._shown[1])
        self._shown = (pending, size)


async def _lost(client: Client) -> None:
    """Wait until a client has given up, or has not come back for `_RECONNECT_S`: it may wait for a dead peer."""
    away = 0.0
    while not client.is_closed and away < _RECONNECT_S:
        await asyncio.sleep(0.25)
        away = 0.0 if client.is_connected else away + 0.25


async def _drop(client: Client) -> None:
    """Close a client without waiting for the server to read: what it has not read is on disk."""
    if not client.options:
        return  # it never began
    client._pending.clear()
    client._pending_data_size = 0
    transport = client._transport
    if isinstance(transport, TcpTransport) and transport._io_writer is not None:
        transport._io_writer.transport.abort()
    # It may raise CancelledError, ours or not: where it has cancelled a task of its own that waited for the same thing.
    await asyncio.gather(client.close(), return_exceptions=True)
