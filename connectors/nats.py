"""NATS JetStream as a Bytewax source.

Guarantee: exactly-once as far as the consumer of its batches makes it so. A partition is handed over in stream
order, once, from the position that `Positions` gives; a sink that stores a batch's position together with what it
made of the batch (`connectors.postgres`) loses and repeats nothing. Bytewax's recovery
store is not used.
"""

import threading
import time
from datetime import datetime
from typing import Final

import msgspec
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors import metrics
from connectors.errors import ConfigurationError, StreamError
from connectors.health import HEALTH
from connectors.jetstream import check_stream, ensure_stream, partitions_to_read
from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.outcomes import DeadLetter
from connectors.publisher import Publisher
from connectors.reader_thread import ReaderThread
from connectors.readers import PartitionReader, Positions
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState

__all__ = [
    "NatsBatch",
    "NatsSource",
    "NatsSourceMessage",
    "Positions",
    "Publisher",
    "StreamState",
    "check_stream",
    "ensure_stream",
]

_log = structlog.get_logger(__name__)

DEAD_LETTERS: Final = "slate.dead_letters"
"""Subject of notices about dead letters, with the stage as its last token; outside the stream."""
_BEAT_S: Final = 5.0
_TAKE: Final = (
    1000  # messages in a batch under load: large enough to amortise a step's call, small enough to stay in cache
)


class NatsSourcePartition(StatefulSourcePartition[NatsBatch, int]):
    """One partition; `position` is that of what was handed over last, None before reading began."""

    def __init__(self, reader: PartitionReader, stream: str, shutdown: Shutdown, *, beats: bool) -> None:
        self._reader = reader
        self._beats = beats
        self._beat = time.monotonic()
        self._shutdown = shutdown
        self.stream = stream
        self.partition = reader.partition
        self.position: int | None = None

    @property
    def drained(self) -> bool:
        """Whether it is known that the stream holds nothing more of this partition."""
        return self._reader.drained

    def next_batch(self) -> list[NatsBatch]:
        """What has come, as one batch; never waits.

        Raises:
            StreamError: the stream was made anew.
        """
        if self._shutdown.requested:
            raise StopIteration
        HEALTH.beat("dataflow")
        reader = self._reader
        if reader.made_anew:
            _log.error("the stream was made anew: stopping, to begin with it at the next start")
            raise StreamError(f"the stream {self.stream} was made anew: start the worker again")
        if reader.lost_end:
            raise StreamError(
                f"the stream {self.stream} lost its end and has other messages there: start the worker again"
            )
        idle = reader.idle_position  # before `take`: what arrived until then is taken first
        messages = reader.take(_TAKE)
        after = self.position
        if after is None:
            if reader.resumed_from is None:
                return []
            after = self.position = reader.resumed_from
        if messages:
            self.position = position = messages[-1].sequence
        elif idle > after:
            self.position = position = idle
        elif self._beats and time.monotonic() - self._beat > _BEAT_S:
            position = after
        else:
            return []
        self._beat = time.monotonic()
        return [NatsBatch(self.stream, self.partition, after, position, messages)]

    def next_awake(self) -> datetime | None:
        """At once: Bytewax waits a millisecond after nothing came."""
        return None

    def snapshot(self) -> int:
        """The position, for a recovery store; nothing resumes from it."""
        return self.position or 0


class NatsSource(FixedPartitionedSource[NatsBatch, int]):
    """The partitions of the stream, as `NatsBatch` items.

    Args:
        settings: names the servers, the stream, its number of partitions and the bounds of what is read ahead.
        purpose: who reads (`ingest`); another process with the same purpose stands by for each partition.
        positions: where to resume.
        shutdown: when requested, every partition ends after what it has handed over.
        beats: hand over a batch without messages, too, where none came for five seconds: a sink that stores positions
            then finds out that its database has gone back (a failover) although nobody publishes.

    Raises:
        ConfigurationError: no NATS is set.
    """

    def __init__(
        self, settings: Settings, purpose: str, positions: Positions, shutdown: Shutdown, *, beats: bool = False
    ) -> None:
        if not purpose.isidentifier():
            raise ConfigurationError(f"the purpose {purpose!r} of a NATS source must be one word")
        settings.nats_servers()
        partitions_to_read(settings)
        self._settings = settings
        self._purpose = purpose
        self._positions = positions
        self._shutdown = shutdown
        self._beats = beats
        self._lock = threading.Lock()
        self._thread: ReaderThread | None = None

    def list_parts(self) -> list[str]:
        """Partition keys, `"{index}-{stream}"`."""
        return [f"{number}-{self._settings.stream}" for number in partitions_to_read(self._settings)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NatsSourcePartition:
        """Begin to read a partition."""
        partition = int(for_part.removesuffix(f"-{self._settings.stream}"))
        with self._lock:
            if self._thread is None:
                self._thread = ReaderThread(self._settings, self._purpose, self._positions)
        reader = self._thread.read(partition)
        HEALTH.need(reader.missing)
        metrics.LAG[self._purpose].labels(partition=str(partition)).set_function(lambda: reader.lag)
        return NatsSourcePartition(reader, self._settings.stream, self._shutdown, beats=self._beats)

    def announce(self, partition: int, letter: DeadLetter) -> None:
        """Tell `slate.dead_letters.<stage>` of a stored dead letter: at most once, for whoever listens now."""
        thread = self._thread
        if thread is None:
            return
        message = letter.message
        notice = {
            "stage": letter.stage,
            "code": letter.code,
            "reason": letter.reason,
            "path": letter.path,
            "subject": message.subject,
            "stream": self._settings.stream,
            "partition": partition,
            "seq": message.sequence,
            "element": letter.element,
        }
        thread.call(lambda: thread.publish(f"{DEAD_LETTERS}.{letter.stage}", msgspec.json.encode(notice)))
