"""PostgreSQL as a Bytewax sink, and the place where ingest resumes.

Guarantee: exactly-once. What is stored of a batch and the position of its partitions are one transaction
(`connectors.writer`), so whatever is killed, the rows and the place where reading resumes agree.
"""

from collections.abc import Callable, Sequence
from typing import Final

import psycopg
import structlog
from bytewax.outputs import DynamicSink

from connectors import metrics
from connectors.background import BackgroundSink
from connectors.errors import ConnectionFailedError, SchemaError, SlateError
from connectors.faults import Fault, classify
from connectors.jetstream import numbers_of, partition_numbers
from connectors.link import open_connection
from connectors.outcomes import DeadLetter, GiveUp, Outcomes, Rebuild
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read
from connectors.stream_state import StreamState
from connectors.tables import Table
from connectors.tracing import OFF, Tracing
from connectors.writer import Writer

_MAX_BYTES: Final = 16 << 20  # payloads in one transaction

_log = structlog.get_logger(__name__)


class Progress:
    """Positions of partitions in `slate.progress`: where `NatsSource` resumes."""

    def __init__(self, settings: Settings) -> None:
        settings.dsn()
        self._settings = settings

    def start(self, partition: int, state: StreamState) -> int:
        """The position after which to read.

        A stream that was made anew is read from its beginning, one that lost its end from there, and messages
        that left the stream unread are recorded in `slate.gaps`; each is logged as an error. A partition that the
        stream has not yet holds nothing of what is there.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
            SchemaError: the schema is not there.
        """
        key = {"stream": state.stream, "partition": partition}
        try:
            with open_connection(self._settings, "slate-progress") as connection, connection.transaction():
                row = connection.execute(read("ingest/position.sql"), {**key, "created": state.created}).fetchone()
                assert row is not None  # noqa: S101 - RETURNING gives the row
                seq, created = row
                found = self._reconcile(partition, state, seq, created)
                if found != seq or created != state.created:
                    connection.execute(read("ingest/set_position.sql"), {**key, "seq": found, "created": state.created})
                if found < seq and created == state.created:
                    connection.execute(read("ingest/uncount.sql"), key)
                if seq < found and created == state.created and not _is_to_come(partition, state):
                    self._lost(connection, state.stream, partition, seq + 1, found)
                return found
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def begin(self, state: StreamState) -> None:
        """Put partitions that the stream will have behind all that it holds: none of it can be in them.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
            SchemaError: the schema is not there.
        """
        new = [one for one in partition_numbers(self._settings) if _is_to_come(one, state)]
        arguments = {"stream": state.stream, "partitions": new, "created": state.created, "seq": state.last}
        try:
            with open_connection(self._settings, "slate-migrate") as connection:
                connection.execute(read("ingest/begin_partitions.sql"), arguments)
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def gap(self, partition: int, first: int, last: int) -> None:
        """Record sequences that left the stream before they were read.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
        """
        try:
            with open_connection(self._settings, "slate-progress") as connection:
                self._lost(connection, self._settings.stream, partition, first, last)
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def newest(self, state: StreamState) -> tuple[int, int] | None:
        """Sequence and time (nanoseconds since 1970) of the newest message that is stored, None where there is none.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
            SchemaError: the schema is not there.
        """
        try:
            with open_connection(self._settings, "slate-progress") as connection:
                key = {"stream": state.stream, "created": state.created}
                row = connection.execute(read("ingest/newest.sql"), key).fetchone()
        except psycopg.Error as error:
            raise as_slate_error(error) from None
        return None if row is None else (row[0], row[1] * 1000)

    def put_back(self, state: StreamState, last: int) -> None:
        """No position is past `last` any more, and what is counted is counted anew.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
        """
        arguments = {"stream": state.stream, "created": state.created, "last": last}
        try:
            with open_connection(self._settings, "slate-progress") as connection:
                connection.execute(read("ingest/put_back.sql"), arguments)
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def _reconcile(self, partition: int, state: StreamState, seq: int, created: object) -> int:
        log = _log.bind(stream=state.stream, partition=partition, position=seq)
        if created != state.created:
            log.error("the stream was made anew: reading it from its beginning", stream_created=str(state.created))
            return 0
        if seq > state.last:
            log.error("the stream ends before our position: it lost messages that we stored", last=state.last)
            return state.last
        return max(seq, state.last if _is_to_come(partition, state) else state.first - 1)

    def _lost(
        self,
        connection: psycopg.Connection[tuple[object, ...]],
        stream: str,
        partition: int,
        first: int,
        last: int,
    ) -> None:
        connection.execute(
            read("ingest/record_gap.sql"),
            {"stream": stream, "partition": partition, "first": first, "last": last, "reason": "retention"},
        )
        metrics.LOST.labels(partition=str(partition)).inc(last - first + 1)
        _log.error(
            "lost by retention: messages left the stream before they were read",
            partition=partition,
            first=first,
            last=last,
            remedy="raise max_age or max_bytes of the stream in NATS, and alert on spark_ingest_lag_messages",
        )


def _is_to_come(partition: int, state: StreamState) -> bool:
    return state.partitions is not None and partition not in numbers_of(state.partitions)


def as_slate_error(error: psycopg.Error) -> SlateError:
    """An error of PostgreSQL in a person's words."""
    text = (error.diag.message_primary or str(error)).strip()
    if classify(error) is Fault.FATAL:
        return SchemaError(f"PostgreSQL: {text}; run `slate migrate`, and check the role's permissions")
    return ConnectionFailedError(f"PostgreSQL: {text}; check SLATE_DB_HOST and that the server runs")


class PostgresSink(DynamicSink[Outcomes]):
    """Stores outcomes; see `connectors.writer.Writer` for the arguments.

    `on_dead_letter` is called, with the partition, after a dead letter is stored.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Sequence[Table],
        *,
        rebuild: Rebuild,
        give_up: GiveUp,
        shutdown: Shutdown,
        on_dead_letter: Callable[[int, DeadLetter], None],
        tracing: Tracing = OFF,
    ) -> None:
        settings.dsn()
        self._settings = settings
        self._tables = tables
        self._rebuild = rebuild
        self._give_up = give_up
        self._shutdown = shutdown
        self._on_dead_letter = on_dead_letter
        self._tracing = tracing

    def build(self, step_id: str, worker_index: int, worker_count: int) -> BackgroundSink[Outcomes]:
        """One writer per worker; partitions never cross workers, for ingest has no exchange."""
        writer = Writer(self._settings, self._tables, self._rebuild, self._give_up, self._shutdown, self._tracing)

        def write(group: list[Outcomes]) -> None:
            with metrics.BATCH_SECONDS.time():
                letters = writer.write(group)
            metrics.BATCH_MESSAGES.observe(sum(len(outcomes.batch.messages) for outcomes in group))
            for partition, letter in letters:
                self._on_dead_letter(partition, letter)

        limits = self._settings.batch_messages, _MAX_BYTES
        return BackgroundSink(write, _weigh, limits, self._shutdown, close=writer.close)


def _weigh(outcomes: Outcomes) -> tuple[int, int]:
    messages = outcomes.batch.messages
    return len(messages), sum(len(message.payload) for message in messages)
