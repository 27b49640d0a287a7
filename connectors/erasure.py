"""Reads a stream from end to end and erases messages in it, while nobody begins to read what is erased.

Guarantee: a message that `erase` returned for is gone from the stream, and overwritten on disk (the secure erase of
JetStream). A partition that `hold` gave us is read by no worker that keeps to `connectors.readers` until we
let go: one that starts meanwhile stands by.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import Final, Self

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from connectors.errors import ConnectionFailedError, SlateError, StreamError
from connectors.jetstream import connect, partition_numbers
from connectors.messages import NatsSourceMessage
from connectors.readers import instance
from connectors.settings import Settings
from connectors.stream_state import StreamState, stream_state

PURPOSES: Final = ("ingest", "rollups")
"""Who reads the stream."""
_BATCH: Final = 250  # of the largest messages they are 250 MiB
_FETCH_S: Final = 5.0
_LISTEN_S: Final = 0.5
_SILENT_S: Final = 3.0
_STORED: Final = re.compile(r"^p\.\d+\.(?=spark\.)")
_GONE: Final = (10037, 10043, 10057)  # no such message

_TROUBLE: Final = (nats.js.errors.Error, nats.errors.Error, TimeoutError)


class Erasure:
    """The stream, as an async context manager; while it is open, what `hold` gave us stays ours.

    Raises:
        ConfigurationError, ConnectionFailedError: as `connectors.jetstream.connect`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{instance()} (erasing)".encode()
        self.held: dict[str, set[int]] = {purpose: set() for purpose in PURPOSES}
        """Partitions that nobody else reads, by purpose."""

    async def __aenter__(self) -> Self:
        self._client = await connect(self._settings, "slate-erasure")
        self._jetstream = self._client.jetstream(timeout=10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def state(self) -> StreamState:
        """Identity and extent of the stream.

        Raises:
            ConnectionFailedError: NATS stopped answering.
            StreamError: there is no such stream.
        """
        try:
            return await stream_state(self._jetstream, self._settings.stream)
        except _TROUBLE as error:
            raise self._explained(error) from None

    async def scan(self, first: int, last: int) -> AsyncIterator[list[NatsSourceMessage]]:
        """All messages between two sequences, in order, under the subjects on which they were published.

        Raises:
            ConnectionFailedError: NATS stopped answering.
            StreamError: there is no such stream.
        """
        stream, position = self._settings.stream, first - 1
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(first, 1),
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60.0,
            mem_storage=True,
            num_replicas=1,
        )
        try:
            consumer = await self._jetstream.add_consumer(stream, config)
            pull = await self._jetstream.pull_subscribe_bind(consumer=consumer.name, stream=stream)
            pending = consumer.num_pending or 0
            while pending and position < last:
                found = [_message(one) for one in await pull.fetch(min(_BATCH, pending), timeout=_FETCH_S)]
                pending -= len(found)
                position = found[-1].sequence
                yield found if position <= last else [one for one in found if one.sequence <= last]
            await pull.unsubscribe()
            await self._jetstream.delete_consumer(stream, consumer.name)
        except _TROUBLE as error:
            raise self._explained(error) from None

    async def erase(self, sequences: Iterable[int]) -> int:
        """Erase messages, all at once; how many were there.

        Raises:
            ConnectionFailedError: NATS stopped answering, or our user may not erase.
        """

        async def one(sequence: int) -> bool:
            try:
                return bool(await self._jetstream.delete_msg(self._settings.stream, sequence))
            except nats.js.errors.APIError as error:
                if error.err_code in _GONE:
                    return False
                raise

        try:
            return sum(await asyncio.gather(*(one(sequence) for sequence in sequences)))
        except _TROUBLE as error:
            raise self._explained(error) from None

    async def hold(self) -> None:
        """Become the reader of each partition that nobody reads.

        Raises:
            ConnectionFailedError: NATS stopped answering.
            StreamError: a reader hangs.
        """
        everything = [(purpose, one) for purpose in PURPOSES for one in partition_numbers(self._settings)]
        try:
            await asyncio.gather(*(self._hold(purpose, one) for purpose, one in everything))
        except _TROUBLE as error:
            raise self._explained(error) from None

    async def _hold(self, purpose: str, partition: int) -> None:
        subject = f"slate.reader.{purpose}.{self._settings.stream}.{partition}"
        if partition in self.held[purpose] or await self._is_read(subject):
            return
        subscription = await self._client.subscribe(subject, cb=self._answer)
        if await self._is_read(subject):  # it began in the same instant
            await subscription.unsubscribe()
        else:
            self.held[purpose].add(partition)

    async def _is_read(self, subject: str) -> bool:
        """Whether another than us reads a partition."""
        answers: set[bytes] = set()
        nobody = asyncio.Event()

        async def hear(message: Msg) -> None:
            if message.header and message.header.get("Status") == "503":
                nobody.set()
            else:
                answers.add(message.data)

        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=hear)
        try:
            await self._client.publish(subject, b"", reply=inbox)
            for wait in (_LISTEN_S, _SILENT_S):
                try:
                    async with asyncio.timeout(wait):
                        await nobody.wait()
                    return False
                except TimeoutError:
                    if answers:
                        return bool(answers - {self._name})
        finally:
            await subscription.unsubscribe()
        raise StreamError(
            f"who reads {subject.removeprefix('slate.reader.')} does not answer: is it paused, or cut off? "
            "End it or let it go on, and run this again"
        )

    async def _answer(self, request: Msg) -> None:
        await request.respond(self._name)

    def _explained(self, error: BaseException) -> SlateError:
        if isinstance(error, nats.js.errors.NotFoundError):
            return StreamError(f"there is no stream {self._settings.stream}; run `slate migrate`")
        return ConnectionFailedError(
            f"NATS did not do what was asked ({type(error).__name__}: {error}): check that it runs, and that our user "
            f"may read and erase messages of {self._settings.stream}"
        )


def _message(stored: Msg) -> NatsSourceMessage:
    """A message under the subject on which it was published."""
    where = stored.metadata
    return NatsSourceMessage(
        _STORED.sub("", stored.subject, count=1),
        stored.data,
        where.sequence.stream,
        int(where.timestamp.timestamp() * 1_000_000_000),
    )
