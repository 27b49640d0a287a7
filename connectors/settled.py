"""The stream as ingest has stored it: a Bytewax source for whatever is to agree with the tables.

Guarantee: exactly-once as far as the consumer of its batches makes it so, as `connectors.nats`. A message is handed
over after ingest has committed it, and only if something of it is stored; what it is a duplicate of, or what PostgreSQL
refused, is not decided a second time.
"""

import threading
import time
from bisect import bisect_right
from collections import deque
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final

import msgspec
import psycopg
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.errors import FencedError
from connectors.health import HEALTH
from connectors.history import History
from connectors.link import Connection, open_connection
from connectors.messages import NatsBatch
from connectors.nats import NatsSource, NatsSourcePartition, Positions
from connectors.server_clock import ServerClock
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read

_POLL_S: Final = 0.05  # how long a message that ingest has stored may wait to be seen
_IDLE_POLL_S: Final = 1.0
_HEARTBEAT_S: Final = 1.0  # event time goes on while nothing comes, and alerts with it
_SPAN: Final = 100_000  # sequences of the stream that are asked about at once: bounds what ingest told of them
_FRESH_US: Final = 1_000_000

_log = structlog.get_logger(__name__)


class CallChange(msgspec.Struct, frozen=True, gc=False):
    """What a call was before a message changed it, and what it is since; times in microseconds since 1970."""

    old_ts: int
    old_name: str
    old_status: str
    old_duration_ms: int | None
    new_ts: int
    new_name: str
    new_status: str
    new_duration_ms: int | None


class SettledBatch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive messages of a partition, with what became of them.

    `batch` has those of which something is stored; `read` counts the others, too. `changes` are calls that one of
    them changed, by its sequence; `dead` are dead letters, each with its time of receipt (microseconds since 1970) and
    its kind of fault. `committed_us` is when ingest committed the last of them, None where that is not known;
    `clock_us` is when they were handed over, by the database's clock. `idle` is whether the stream held nothing more of
    the partition then.
    """

    batch: NatsBatch
    read: int
    idle: bool
    changes: dict[int, CallChange]
    dead: list[tuple[int, str]]
    committed_us: int | None
    clock_us: int


class _Settled(msgspec.Struct, frozen=True):
    """What ingest has done up to a position; `lost` are first and last sequences of what it found no more."""

    position: int
    lost: list[tuple[int, int]] = []
    skipped: set[int] = set()
    dead: list[tuple[int, str]] = []
    changes: dict[int, CallChange] = {}
    committed_us: int | None = None


class _Gate:
    """How far one partition is settled. `extend` is called on the settlement's thread, the rest on the dataflow's."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.known: int | None = None
        self.waiting = False
        self._settled: deque[_Settled] = deque()

    def extend(self, settled: _Settled) -> None:
        self.known = settled.position
        self._settled.append(settled)

    def current(self, position: int) -> _Settled | None:
        """What is known of the messages after `position`, None when ingest has not stored one of them."""
        if self.known is None:
            self.known = position
        while self._settled and self._settled[0].position <= position:
            self._settled.popleft()
        return self._settled[0] if self._settled else None


class _Settlement:
    """Asks PostgreSQL how far ingest is, for all partitions of a process together, on a thread of its own."""

    def __init__(self, settings: Settings, history: History, shutdown: Shutdown) -> None:
        self._settings = settings
        self._history = history
        self.clock = ServerClock()
        self._shutdown = shutdown
        self._gates: list[_Gate] = []
        self._asked = threading.Event()
        self._polled: dict[int, int] = {}
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="settlement", daemon=True)

    def gate(self, partition: int) -> _Gate:
        """The gate of a partition; several workers of a process may ask at once."""
        gate = _Gate(partition)
        with self._starting:
            self._gates.append(gate)
            if not self._thread.is_alive():
                self._thread.start()
        return gate

    def ask(self) -> None:
        """Look soon: a message waits."""
        self._asked.set()

    def _run(self) -> None:
        connection: Connection | None = None
        told = False
        while not self._shutdown.requested:
            HEALTH.beat("settlement")
            try:
                if connection is None or connection.closed:
                    connection = open_connection(self._settings, "slate-settlement", patience=False)
                self._poll(connection)
                told = False
            except FencedError as error:
                _log.error("reading stopped", error=str(error))
                self._shutdown.request()
            except psycopg.Error as error:
                if not told:
                    _log.warning("cannot see what ingest has stored", error=str(error).strip())
                told = True
                if connection is not None:
                    connection.close()
                self._shutdown.wait(_IDLE_POLL_S)
            self._asked.clear()
            if any(gate.waiting for gate in self._gates):
                self._shutdown.wait(_POLL_S)  # a commit of ingest gives no sign: NOTIFY would slow every writer
            else:
                self._asked.wait(_IDLE_POLL_S)

    def _poll(self, connection: Connection) -> None:
        gates = {gate.partition: gate for gate in self._gates if gate.known is not None}
        if not gates:
            return
        rows = connection.execute(
            read("rollups/settled.sql"), {"stream": self._settings.stream, "partitions": list(gates)}
        ).fetchall()
        for partition, seq, updated_us, timeline, now in rows:
            self.clock.set(now)
            self._history.read_from(timeline)
            gate = gates[partition]
            known = gate.known
            if known is None or seq <= known:
                self._polled[partition] = now
                continue
            upto = min(seq, known + _SPAN)
            # Whoever was away or behind does not know when the single messages were committed.
            fresh = upto == seq and now - self._polled.get(partition, 0) < _FRESH_US
            committed_us = updated_us if fresh else None
            gate.extend(_read_settled(connection, self._settings.stream, partition, known, upto, committed_us))
            self._polled[partition] = now


def _read_settled(
    connection: Connection, stream: str, partition: int, after: int, upto: int, committed_us: int | None
) -> _Settled:
    key: dict[str, Any] = {"stream": stream, "partition": partition, "after": after, "upto": upto}
    skipped: set[int] = set()
    dead: list[tuple[int, str]] = []
    for seqs, dead_seqs, dead_codes in connection.execute(read("rollups/skipped.sql"), key):
        skipped.update(seqs)
        dead.extend(zip(dead_seqs, dead_codes, strict=True))
    changes = {seq: CallChange(*row) for seq, *row in connection.execute(read("rollups/call_changes.sql"), key)}
    lost = connection.execute(read("rollups/lost.sql"), key).fetchall()
    return _Settled(upto, lost, skipped, dead, changes, committed_us)


def settle(connection: Connection, batch: NatsBatch) -> SettledBatch:
    """A batch that ingest has stored, with what became of its messages.

    Raises:
        psycopg.Error: the database cannot be read.
    """
    settled = _read_settled(connection, batch.stream, batch.partition, batch.after, batch.position, None)
    return _join(batch, settled, idle=False, clock_us=time.time_ns() // 1000)


class _SettledPartition(StatefulSourcePartition[SettledBatch, int]):
    def __init__(self, inner: NatsSourcePartition, gate: _Gate, settlement: _Settlement, shutdown: Shutdown) -> None:
        self._inner = inner
        self._shutdown = shutdown
        self._gate = gate
        self._settlement = settlement
        self._held: NatsBatch | None = None
        self._beat = time.monotonic()

    def next_batch(self) -> list[SettledBatch]:
        if self._shutdown.requested:
            raise StopIteration  # what is held was not handed over, and is read again
        HEALTH.beat("dataflow")
        held = self._hold()
        if held is None:
            return self._heartbeat()
        settled = self._gate.current(held.after)
        self._gate.waiting = settled is None and bool(held.messages)
        if settled is None:
            if not held.messages:
                return self._heartbeat()
            self._settlement.ask()
            return []
        now, self._held = _cut(held, settled.position)
        self._beat = time.monotonic()
        nothing_held = self._held is None or not self._held.messages
        idle = nothing_held and self._inner.drained
        return [_join(now, settled, idle=idle, clock_us=self._settlement.clock.now_us)]

    def next_awake(self) -> datetime | None:
        if self._held is not None:
            return datetime.now(UTC) + timedelta(seconds=_POLL_S / 10)
        return self._inner.next_awake()

    def snapshot(self) -> int:
        return self._inner.snapshot()

    def _hold(self) -> NatsBatch | None:
        """What is to be handed over next; messages do not wait for ingest to see that there were none before them."""
        held = self._held
        if held is None or not held.messages:
            for more in self._inner.next_batch():
                held = more if held is None else msgspec.structs.replace(more, after=held.after)
            self._held = held
        return held

    def _heartbeat(self) -> list[SettledBatch]:
        """Nothing, and now and then the word that there is nothing."""
        position = self._inner.position if self._held is None else self._held.after
        now = self._settlement.clock.now_us
        if position is not None and now is None:
            self._gate.current(position)  # so that the database is asked
        if position is None or now is None or time.monotonic() - self._beat < _HEARTBEAT_S:
            return []
        self._beat = time.monotonic()
        nothing = NatsBatch(self._inner.stream, self._gate.partition, position, position, [])
        return [SettledBatch(nothing, 0, self._inner.drained, {}, [], None, now)]


def _cut(batch: NatsBatch, at: int) -> tuple[NatsBatch, NatsBatch | None]:
    """The part of a batch up to a position, and the rest."""
    if batch.position <= at:
        return batch, None
    place = bisect_right(batch.messages, at, key=attrgetter("sequence"))
    replace = msgspec.structs.replace
    return (
        replace(batch, position=at, messages=batch.messages[:place]),
        replace(batch, after=at, messages=batch.messages[place:]),
    )


def _join(batch: NatsBatch, settled: _Settled, *, idle: bool, clock_us: int | None) -> SettledBatch:
    """A batch with what is known of its messages; of what ingest never read, nothing."""
    assert clock_us is not None  # noqa: S101 - who knows what is settled has asked the database
    for first, last in settled.lost:
        found = [message for message in batch.messages if not first <= message.sequence <= last]
        batch = msgspec.structs.replace(batch, messages=found)
    messages = batch.messages
    dead: list[tuple[int, str]] = []
    if settled.dead:
        received = {message.sequence: message.stored_at // 1000 for message in messages}
        dead = [(received[seq], code) for seq, code in settled.dead if seq in received]
    if settled.skipped:
        kept = [message for message in messages if message.sequence not in settled.skipped]
        batch = msgspec.structs.replace(batch, messages=kept)
    return SettledBatch(batch, len(messages), idle, settled.changes, dead, settled.committed_us, clock_us)


class SettledSource(FixedPartitionedSource[SettledBatch, int]):
    """The partitions of the stream, as far as ingest has stored them.

    Args:
        settings: as for `NatsSource`.
        purpose: who reads (`rollups`).
        positions: where to resume.
        history: of the database in which it is seen what is stored; in another it may not be counted.
        shutdown: when requested, every partition ends after what it has handed over.

    Raises:
        ConfigurationError: no NATS or no PostgreSQL is set.
    """

    def __init__(
        self, settings: Settings, purpose: str, positions: Positions, history: History, shutdown: Shutdown
    ) -> None:
        settings.dsn()
        # sets are of ingest; whoever counts reads all that is stored
        self._source = NatsSource(settings.model_copy(update={"worker_partitions": None}), purpose, positions, shutdown)
        self._settlement = _Settlement(settings, history, shutdown)
        self._shutdown = shutdown

    def list_parts(self) -> list[str]:
        """Partition keys, as those of `NatsSource`."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _SettledPartition:
        """Begin to read a partition."""
        inner = self._source.build_part(step_id, for_part, resume_state)
        return _SettledPartition(inner, self._settlement.gate(inner.partition), self._settlement, self._shutdown)
