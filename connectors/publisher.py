"""An acknowledged publisher.

Guarantee: an event that `flush` returned for is stored in the stream. An event with a message id is sent again
until it is acknowledged, through restarts of the server; JetStream drops the repetitions within two minutes, and
the database stores an id once however much later it comes again.
"""

import asyncio
import time
from types import TracebackType
from typing import Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck

from connectors.errors import PublishError
from connectors.jetstream import connect
from connectors.settings import Settings

RESEND_AFTER_S = 2.0
"""How long an acknowledgement may take before an event with a message id is sent again, seconds."""
GIVE_UP_AFTER_S = 60.0
"""How long an event is tried before it counts as not delivered, seconds."""


class _Pending:
    __slots__ = ("ack", "first", "headers", "last", "payload", "subject")

    def __init__(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.first = self.last = time.monotonic()
        self.ack: asyncio.Future[PubAck] | None = None


class Publisher:
    """Publishes to the stream with a bounded window of events whose acknowledgement is awaited.

    `acknowledged` counts events that the stream holds, `duplicates` those among them that it held already.
    """

    def __init__(self, client: Client, max_pending: int) -> None:
        self._client = client
        self._window = max_pending
        # Twice the window: an event that is sent again holds a place of the library's own, too.
        self._jetstream: JetStreamContext = client.jetstream(publish_async_max_pending=2 * max_pending)
        self._free = asyncio.Semaphore(max_pending)
        self._pending: dict[int, _Pending] = {}
        self._next = 0
        self._error: PublishError | None = None
        self._watcher = asyncio.create_task(self._watch())
        self.acknowledged = 0
        self.duplicates = 0

    @classmethod
    async def connect(cls, settings: Settings, *, name: str = "slate-publisher", max_pending: int = 256) -> Self:
        """Open a connection of its own.

        Raises:
            ConfigurationError: no NATS is set.
            ConnectionFailedError: NATS cannot be reached.
        """
        publishers: list[Self] = []

        def refused(words: str) -> None:
            for one in publishers:
                one._refused(words)

        publishers.append(cls(await connect(settings, name, refused=refused), max_pending))
        return publishers[0]

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send one event; returns once there is room in the window, before the acknowledgement.

        Raises:
            PublishError: this event cannot be sent, or an earlier one was not acknowledged.
        """
        self._raise()
        headers = dict(headers or {})
        if msg_id is not None:
            headers["Nats-Msg-Id"] = msg_id
        await self._free.acquire()
        self._next += 1
        self._pending[self._next] = _Pending(subject, payload, headers)
        await self._send(self._next)
        self._raise()

    async def flush(self) -> None:
        """Wait until every event so far is acknowledged.

        Raises:
            PublishError: one was not.
        """
        for _ in range(self._window):
            await self._free.acquire()
        for _ in range(self._window):
            self._free.release()
        self._raise()

    async def close(self) -> None:
        """Close the connection; what was not acknowledged by then may or may not be stored."""
        self._watcher.cancel()
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            await self.close()

    async def _send(self, number: int) -> None:
        event = self._pending[number]
        try:
            ack = await self._jetstream.publish_async(event.subject, event.payload, headers=event.headers or None)
        except nats.errors.MaxPayloadError:
            self._settle(
                number,
                PublishError(f"{event.subject}: {len(event.payload)} bytes are above the server's limit"),
            )
        except (nats.errors.Error, nats.js.errors.Error, OSError, ValueError) as error:
            self._failed(number, error)
        else:
            event.ack = ack
            ack.add_done_callback(lambda done: self._acknowledged(number, done))

    def _acknowledged(self, number: int, ack: "asyncio.Future[PubAck]") -> None:
        if ack.cancelled() or number not in self._pending:
            return
        error = ack.exception()
        if error is not None:
            self._failed(number, error)
            return
        self.acknowledged += 1
        self.duplicates += bool(ack.result().duplicate)
        self._settle(number)

    def _failed(self, number: int, error: BaseException) -> None:
        """Leave an event with a message id to the watcher; for any other the outcome is unknown, and said."""
        event = self._pending[number]
        tries_left = time.monotonic() - event.first < GIVE_UP_AFTER_S
        if "Nats-Msg-Id" in event.headers and tries_left and not isinstance(error, nats.js.errors.APIError):
            return
        self._settle(number, PublishError(f"{event.subject} was not acknowledged: {type(error).__name__}: {error}"))

    def _refused(self, words: str) -> None:
        """NATS refuses a subject, or that of our acknowledgements: none will come."""
        everything = "subscription" in words
        for number, event in list(self._pending.items()):
            if everything or f'"{event.subject.lower()}"' in words:
                self._settle(number, PublishError(words))
                if event.ack is not None:
                    event.ack.cancel()  # gives back the library's own place

    def _settle(self, number: int, error: PublishError | None = None) -> None:
        del self._pending[number]
        self._error = error or self._error
        self._free.release()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RESEND_AFTER_S / 4)
            now = time.monotonic()
            overdue = [n for n, event in self._pending.items() if now - event.last > RESEND_AFTER_S]
            for number in overdue:
                event = self._pending.get(number)
                if event is None:
                    continue
                event.last = now
                if now - event.first >= GIVE_UP_AFTER_S or "Nats-Msg-Id" not in event.headers:
                    self._failed(number, TimeoutError("no acknowledgement came"))
                elif self._client.is_connected:
                    if event.ack is not None:
                        event.ack.cancel()  # else each try keeps a place of the library's window, which then is full
                    await self._send(number)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
