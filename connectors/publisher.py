"""An acknowledged publisher.

Guarantee: an event that `flush` returned for is stored in the stream. An event with a message id is sent again
until it is acknowledged, through restarts of the server; JetStream drops the repetitions within two minutes, and
the database stores an id once however much later it comes again.
"""

import asyncio
import time
from types import TracebackType
from typing import Final, Self

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from connectors.errors import PublishError
from connectors.jetstream import ACCOUNT_FULL, connect
from connectors.settings import Settings

RESEND_AFTER_S = 2.0
"""How long an acknowledgement may take before an event with a message id is sent again, seconds."""
GIVE_UP_AFTER_S = 60.0
"""How long an event is tried before it counts as not delivered, seconds."""
_NO_RESPONDERS: Final = "503"
_NOT_NOW: Final = 409
"""The class of "duplicate message id is in process": its first copy is not stored on most servers yet."""


class _Error(msgspec.Struct, frozen=True):
    code: int = 500
    err_code: int = 0
    description: str = "an answer that is none of JetStream's"

    @property
    def final(self) -> bool:
        """Whether the same event would be refused again."""
        return 400 <= self.code < 500 and self.code != _NOT_NOW and self.err_code != ACCOUNT_FULL


class _Answer(msgspec.Struct, frozen=True):
    """Of JetStream to an event: where it is stored, or an error."""

    seq: int = 0
    duplicate: bool = False
    error: _Error = _Error()


_ANSWER = msgspec.json.Decoder(_Answer)


class _Pending:
    __slots__ = ("first", "headers", "last", "payload", "subject", "why")

    def __init__(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.first = self.last = time.monotonic()
        self.why = "no acknowledgement came"


class Publisher:
    """Publishes to the stream with a bounded window of events whose acknowledgement is awaited.

    `acknowledged` counts events that the stream holds, `duplicates` those among them that it held already.
    """

    def __init__(self, client: Client, max_pending: int) -> None:
        self._client = client
        self._window = max_pending
        self._free = asyncio.Semaphore(max_pending)
        # Answers come to subjects of our own: with the library's a try that fails or is repeated keeps a place of its
        # window for ever, and what JetStream refuses is never told.
        self._inbox = client.new_inbox()
        self._pending: dict[int, _Pending] = {}
        self._next = 0
        self._error: PublishError | None = None
        self._deaf: str | None = None
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

        publisher = cls(await connect(settings, name, refused=refused), max_pending)
        publishers.append(publisher)
        await publisher._client.subscribe(f"{publisher._inbox}.*", cb=publisher._answered)
        return publisher

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
        if self._deaf is not None:
            self._settle(number, self._deaf)
            return
        event = self._pending[number]
        reply = f"{self._inbox}.{number}"
        try:
            await self._client.publish(event.subject, event.payload, reply=reply, headers=event.headers or None)
        except nats.errors.MaxPayloadError:
            self._settle(number, f"{len(event.payload)} bytes are above the server's limit")
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            self._settle(number, str(error))
        except Exception as error:  # noqa: BLE001 - whatever the library raises, the watcher goes on
            self._failed(number, f"{type(error).__name__}: {error}")

    async def _answered(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        if number not in self._pending:
            return  # an answer to each time it was sent
        if (message.headers or {}).get("Status") == _NO_RESPONDERS:
            self._failed(number, "no stream takes this subject")
            return
        answer = _ANSWER.decode(message.data)
        if answer.seq:
            self.acknowledged += 1
            self.duplicates += answer.duplicate
            self._settle(number)
        else:
            self._failed(number, f"{answer.error.description} ({answer.error.err_code})", final=answer.error.final)

    def _failed(self, number: int, why: str, *, final: bool = False) -> None:
        """Leave an event with a message id to the watcher; for any other the outcome is unknown, and said."""
        event = self._pending.get(number)
        if event is None:
            return
        event.why = why
        if final or "Nats-Msg-Id" not in event.headers or time.monotonic() - event.first >= GIVE_UP_AFTER_S:
            self._settle(number, f"it was not acknowledged: {why}")

    def _refused(self, words: str) -> None:
        """NATS refuses a subject, or that of our acknowledgements: none will come."""
        if "subscription" in words:
            self._deaf = words
        for number, event in list(self._pending.items()):
            if self._deaf or f'"{event.subject.lower()}"' in words:
                self._settle(number, words)

    def _settle(self, number: int, why: str | None = None) -> None:
        event = self._pending.pop(number, None)
        if event is None:
            return  # an answer to an earlier try came meanwhile
        if why is not None:
            self._error = PublishError(f"{event.subject}: {why}")
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
                    self._failed(number, event.why)
                elif self._client.is_connected:
                    await self._send(number)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
