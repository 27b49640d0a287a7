"""Ingest and rollups without a stream between them: real writers on a real database, and the oracle in SQL."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg

from connectors.history import History
from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.postgres import Progress
from connectors.rollups import RollupProgress, RollupWriter
from connectors.settings import Settings
from connectors.settled import SettledBatch, settle
from connectors.shutdown import Shutdown
from connectors.sql import read
from connectors.stream_state import StreamState
from connectors.writer import Writer
from flows.fold import fold, fold_up
from flows.rows import TABLES
from flows.validate import refused_by_store, validate
from tests.support.stack import connect

CREATED = datetime(2026, 3, 1, tzinfo=UTC)
EVERYTHING = "slate.rollup_differences('2020-01-01', 'infinity')"

_WANTED_WINDOWS = """
    SELECT to_timestamp(floor(extract(epoch FROM ts) / seconds) * seconds), seconds, signal, key, status,
        count(*), sum(prompt), sum(completion), sum(cost), array_agg(ms ORDER BY ms) FILTER (WHERE ms IS NOT NULL)
    FROM (
        SELECT ts, 'calls' AS signal, name AS key, status, 0 AS prompt, 0 AS completion, 0 AS cost, duration_ms AS ms
        FROM spark_function_calls
        UNION ALL
        SELECT ts, 'usage_by_model', model, '', tokens_prompt, tokens_completion, cost_estimate, NULL FROM spark_usage
        UNION ALL
        SELECT ts, 'usage_by_user', coalesce(user_id::text, ''), '', tokens_prompt, tokens_completion, cost_estimate,
            NULL
        FROM spark_usage
        UNION ALL
        SELECT ts, 'events', type, '', 0, 0, 0, NULL FROM spark_events
        UNION ALL
        SELECT stored_at, 'dead_letters', code, '', 0, 0, 0, NULL FROM slate.dead_letters
    ) AS raw
    CROSS JOIN (VALUES (60), (300)) AS lengths (seconds)
    GROUP BY 1, 2, 3, 4, 5
"""
_WINDOWS = """
    SELECT start, seconds, signal, key, status, count, tokens_prompt, tokens_completion, cost, bins
    FROM slate.windows WHERE signal <> 'ingest_delay' AND count <> 0
"""


USAGE_LABELS = ("model", "user", "session")
"""All labels that usage has for alert rules."""
_SIGNALS = """
    SELECT (extract(epoch FROM at) / 2)::bigint, signal, key, detail, session_id, count, tokens, cost, bins::text
    FROM slate.alert_signals WHERE signal <> 'ingest_delay'
"""


class Pipeline:
    """Partitions of a made-up stream, ingested and counted batch by batch in any order; each may be cut anywhere."""

    def __init__(self, settings: Settings, connection: psycopg.Connection, partitions: int, stack: ExitStack) -> None:
        self.settings = settings
        self.connection = connection
        self._stack = stack
        self.messages: list[list[NatsSourceMessage]] = [[] for _ in range(partitions)]
        self._ingested = [0] * partitions
        self._counted = [0] * partitions
        self._sequence = 0
        state = StreamState(settings.stream, CREATED, 1, 0)
        for partition in range(partitions):
            Progress(settings).start(partition, state)
            RollupProgress(settings, Shutdown()).start(partition, state)
        self.writer = Writer(settings, TABLES, validate, refused_by_store, Shutdown())
        stack.callback(self.writer.close)
        self.new_worker()

    def new_worker(self) -> None:
        """Forget everything that a rollups worker holds in memory, as kill -9 does."""
        self.rollups = RollupWriter(self.settings, Shutdown(), lambda sums: fold_up(sums, USAGE_LABELS), History())
        self._stack.callback(self.rollups.close)

    def publish(self, partition: int, message: NatsSourceMessage) -> None:
        """Put a message at the end of a partition."""
        self._sequence += 1
        self.messages[partition].append(msgspec.structs.replace(message, sequence=self._sequence))

    def ingest(self, partition: int, most: int) -> None:
        """Store the next messages of a partition."""
        batch = self._next(partition, self._ingested[partition], most)
        if batch.messages:
            self.writer.write([validate(batch)])
            self._ingested[partition] = batch.position

    def settled(self, partition: int, most: int) -> SettledBatch | None:
        """The next messages of a partition that are stored and not counted."""
        batch = self._next(partition, self._counted[partition], most, self._ingested[partition])
        return settle(self.connection, batch) if batch.messages else None

    def count(self, parts: Sequence[tuple[int, int]], *, crash: str = "") -> None:
        """Count the next messages of partitions in one transaction, and die before it or when it is done."""
        group = []
        counted = self._counted.copy()
        for partition, most in parts:
            settled = self.settled(partition, most)
            if settled is not None:
                group.append(fold(settled))
                self._counted[partition] = settled.batch.position
        if crash == "before":
            self._counted = counted
        elif group:
            self.rollups.write(group)
        if crash:
            self.new_worker()

    def finish(self) -> None:
        """Store and count all that is left."""
        for partition, messages in enumerate(self.messages):
            self.ingest(partition, len(messages))
            self.count([(partition, len(messages))])

    def differences(self) -> list[tuple[Any, ...]]:
        """Where the daily tables differ from their recomputation."""
        return self.connection.execute(f"SELECT * FROM {EVERYTHING}".encode()).fetchall()

    def _next(self, partition: int, after: int, most: int, upto: int | None = None) -> NatsBatch:
        those = [
            message
            for message in self.messages[partition]
            if message.sequence > after and (upto is None or message.sequence <= upto)
        ][:most]
        position = those[-1].sequence if those else after
        return NatsBatch(self.settings.stream, partition, after, position, those)


def window_differences(
    connection: psycopg.Connection, bins: Callable[[list[int]], dict[str, int]]
) -> list[tuple[Any, ...]]:
    """Where windows differ from their recomputation; `bins` makes a histogram of durations."""
    wanted = {row[:5]: (*row[5:9], bins(row[9] or [])) for row in connection.execute(_WANTED_WINDOWS.encode())}
    found = {row[:5]: row[5:] for row in connection.execute(_WINDOWS.encode())}
    keys = wanted.keys() | found.keys()
    return [(key, found.get(key), wanted.get(key)) for key in keys if found.get(key) != wanted.get(key)]


def counted(connection: psycopg.Connection) -> int:
    """How many messages are counted."""
    row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.rollup_progress").fetchone()
    return int(row[0]) if row else 0


def signal_differences(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Where the figures that alerts look at differ from those that looking back finds in the tables."""
    history = read("alerts/history.sql").encode()
    everything = {"since": "2020-01-01", "until": "infinity", "sessions": False}
    wanted, found = _summed(connection.execute(history, everything)), _summed(connection.execute(_SIGNALS.encode()))
    return [(key, found.get(key), wanted.get(key)) for key in wanted | found if found.get(key) != wanted.get(key)]


def _summed(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Figures by tick and labels, without what comes to nothing."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    bins: dict[tuple[Any, ...], Counter[str]] = {}
    for row in rows:
        total = sums.setdefault(row[:5], [0, 0, 0])
        for place, figure in enumerate(row[5:8]):
            total[place] += figure
        bins.setdefault(row[:5], Counter()).update(msgspec.json.decode(row[8]))
    found = {key: (*total, {place: n for place, n in bins[key].items() if n}) for key, total in sums.items()}
    return {key: figures for key, figures in found.items() if any(figures)}


@contextmanager
def pipeline(settings: Settings, partitions: int) -> Iterator[Pipeline]:
    """A pipeline on an empty database."""
    with ExitStack() as stack:
        connection = stack.enter_context(connect(settings))
        connection.execute(
            "TRUNCATE spark_sessions, spark_events, spark_function_calls, spark_telemetry, spark_usage, spark_previews,"
            " spark_generated_scripts, spark_build_jobs, spark_usage_daily, spark_errors_daily, spark_events_daily,"
            " slate.event_ids, slate.progress, slate.gaps, slate.dead_letters, slate.skipped, slate.call_changes,"
            " slate.rollup_progress, slate.windows, slate.alert_signals"
        )
        yield Pipeline(settings, connection, partitions, stack)
