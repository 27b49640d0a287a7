"""Writes outcomes to PostgreSQL, each batch in one transaction and one round trip, until they are stored.

The transaction holds the rows, the identities, the dead letters and the position of every partition in the batch.
A batch that fails for its data is halved until the bad message stands alone and becomes a dead letter; one that
fails for the server or the connection is tried again, after looking whether its commit had gone through.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, Final

import psycopg
import structlog

from connectors import metrics
from connectors.arrays import (
    BIGINT,
    BYTEA,
    INTEGER,
    LABEL,
    TEXT,
    TIMESTAMP,
    UUID,
    ColumnType,
    PgArray,
)
from connectors.errors import FencedError
from connectors.faults import Fault
from connectors.link import Connection, Link, Statement
from connectors.outcomes import DeadLetter, GiveUp, Outcomes, Rebuild
from connectors.readers import instance
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read
from connectors.tables import Table
from connectors.tracing import OFF, Tracing

_log = structlog.get_logger(__name__)

Stored = tuple[int, DeadLetter]
"""A dead letter and its partition."""


class Writer:
    """Stores outcomes, in the order given, from one thread.

    Args:
        settings: names the server.
        tables: how rows are written, in order.
        rebuild: outcomes of part of a batch.
        give_up: the dead letter of a message that PostgreSQL refuses.
        shutdown: after it, a server that stays away is waited for 15 s only.
        tracing: is told of what is stored.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Sequence[Table],
        rebuild: Rebuild,
        give_up: GiveUp,
        shutdown: Shutdown,
        tracing: Tracing = OFF,
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._rebuild = rebuild
        self._give_up = give_up
        self._tracing = tracing
        self._link = Link(settings, "slate-ingest", shutdown)
        self._owner = new_owner()
        self._known_days: set[int] = set()
        self._expect_duplicates = False

    def write(self, group: list[Outcomes]) -> list[Stored]:
        """Return when the group is stored, with its dead letters. Batches of one partition must be consecutive.

        Raises:
            FencedError: another worker writes one of the partitions, or the database has gone back.
            ConnectionFailedError: shutdown was requested and the server stayed away.
        """
        uncertain = False
        fresh_days = False
        while True:
            try:
                if uncertain:
                    group = self._unwritten(group)
                    uncertain = False
                if group:
                    self._store(group)
                return [(outcomes.batch.partition, letter) for outcomes in group for letter in outcomes.dead]
            except psycopg.Error as error:
                match fault := self._link.recover(error):
                    case Fault.FENCED:
                        raise self._fenced(group) from None
                    case Fault.DUPLICATE:
                        self._expect_duplicates = True
                    case Fault.DATA if not fresh_days:
                        # A partition of spark_events may have been detached since we saw it: look again first.
                        self._known_days.clear()
                        fresh_days = True
                    case Fault.DATA:
                        return self._halve(group, error)
                    case Fault.TIMEOUT if sum(len(outcomes.batch.messages) for outcomes in group) > 1:
                        _log.warning("a batch took longer than SLATE_DB_STATEMENT_TIMEOUT: writing halves of it")
                        return self._halve(group, error)
                    case _:
                        metrics.RETRIES.labels(reason=error.sqlstate or type(error).__name__).inc()
                        self._link.wait(error, fault)
                        uncertain = True

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _store(self, group: list[Outcomes]) -> None:
        began_ns = time.time_ns()
        connection = self._link.connection()
        self._drop_duplicates(connection, group)
        self._link.transact(self._statements(connection, group))
        self._count(group)
        self._tracing.committed(group, began_ns)

    def _statements(self, connection: Connection, group: list[Outcomes]) -> list[Statement]:
        """The whole transaction; the position first, so that of two workers one waits and then stops."""
        stream = group[0].batch.stream
        statements = [(read("ingest/advance.sql"), self._advance(group))]
        ids = [key for outcomes in group for key in outcomes.ids]
        if ids:
            statements.append((read("ingest/claim_ids.sql"), {"ids": UUID.array(ids)}))
        for table in self._tables:
            rows = [row for outcomes in group for row in outcomes.rows.get(table.name, ())]
            if not rows:
                continue
            self._ensure_months(connection, table.days(rows))
            statements += [(table.sql, table.parameters(turn) | {"stream": stream}) for turn in table.turns(rows)]
        statements += _skipped(group)
        dead = [(outcomes.batch.partition, letter) for outcomes in group for letter in outcomes.dead]
        if dead:
            statements.append((read("ingest/dead_letters.sql"), {"stream": stream} | _dead_letter_arrays(dead)))
        return statements

    def _advance(self, group: list[Outcomes]) -> dict[str, Any]:
        """The ledger's entries: for each partition of the group, from where to where, and the account."""
        moves: dict[int, list[int]] = {}
        times: dict[int, int | None] = {}
        for outcomes in group:
            batch = outcomes.batch
            if batch.position > batch.after or batch.partition not in times:
                times[batch.partition] = batch.position_at
            move = moves.setdefault(batch.partition, [batch.partition, batch.after, 0, 0, 0, 0, 0])
            move[2] = batch.position
            move[3] += len(batch.messages)
            move[4] += outcomes.stored
            move[5] += outcomes.duplicate
            move[6] += outcomes.dead_messages
        partition, *counters = zip(*sorted(moves.values()), strict=True)
        names = ("afters", "positions", "reads", "storeds", "duplicates", "deads")
        return {
            "stream": group[0].batch.stream,
            "owner": self._owner,
            "partitions": INTEGER.array(partition),
            "position_ats": TIMESTAMP.array([times[one] for one in partition]),
            **{name: BIGINT.array(values) for name, values in zip(names, counters, strict=True)},
        }

    def _drop_duplicates(self, connection: Connection, group: list[Outcomes]) -> None:
        """Make duplicates of what the group claims twice and, when one was found lately, of what is stored."""
        claimed: set[bytes] = set()
        total = 0
        for outcomes in group:
            claimed.update(outcomes.ids)
            total += len(outcomes.ids)
        known: set[bytes] = set()
        if self._expect_duplicates and claimed:
            rows = connection.execute(read("ingest/known_ids.sql"), {"ids": UUID.array(list(claimed))})
            known = {row[0].bytes for row in rows}
            self._expect_duplicates = bool(known)
        if not known and len(claimed) == total:
            return
        for outcomes in group:
            outcomes.drop_known(known)
            known.update(outcomes.ids)

    def _ensure_months(self, connection: Connection, days: set[int]) -> None:
        for day in sorted(days - self._known_days):
            month = datetime.fromtimestamp(day * 86_400, UTC).date()
            ensure_month(connection, month)
            self._known_days.add(day)

    def _halve(self, group: list[Outcomes], error: psycopg.Error) -> list[Stored]:
        if len(group) > 1:
            # A duplicate in one batch may be that of an event which becomes a dead letter in another: look anew.
            group = [self._rebuild(outcomes.batch) for outcomes in group]
            middle = len(group) // 2
            return self.write(group[:middle]) + self.write(group[middle:])
        batch = group[0].batch
        if len(batch.messages) > 1:
            return [letter for part in batch.split() for letter in self.write([self._rebuild(part)])]
        reason = error.diag.message_primary or type(error).__name__
        return self.write([self._give_up(batch, error.sqlstate or "data", reason)])

    def _unwritten(self, group: list[Outcomes]) -> list[Outcomes]:
        """What of the group is not stored: all of it, or nothing when only the answer to its commit was lost."""
        positions = self._positions(group)
        stored: list[Outcomes] = []
        unwritten: list[Outcomes] = []
        for outcomes in group:
            is_last = positions.get(outcomes.batch.partition) == (outcomes.batch.position, self._owner)
            (stored if is_last or self._is_past(positions, outcomes) else unwritten).append(outcomes)
        self._tracing.committed(stored, time.time_ns())
        return unwritten

    def _is_past(self, positions: dict[int, tuple[int, str | None]], outcomes: Outcomes) -> bool:
        seq, owner = positions.get(outcomes.batch.partition, (0, None))
        return owner == self._owner and seq > outcomes.batch.position

    def _positions(self, group: list[Outcomes]) -> dict[int, tuple[int, str | None]]:
        rows = self._link.connection().execute(
            read("ingest/positions.sql"),
            {
                "stream": group[0].batch.stream,
                "partitions": sorted({outcomes.batch.partition for outcomes in group}),
            },
        )
        return {partition: (seq, owner) for partition, seq, owner in rows}

    def _fenced(self, group: list[Outcomes]) -> FencedError:
        owners: set[str] = set()
        lacking = 0
        with suppress(psycopg.Error):
            positions = self._positions(group)
            owners = {str(owner) for _, owner in positions.values()} - {self._owner}
            afters = {outcomes.batch.partition: outcomes.batch.after for outcomes in reversed(group)}  # of the first
            lacking = max(after - positions.get(partition, (0, None))[0] for partition, after in afters.items())
        if lacking > 0:
            return FencedError(
                f"the database has gone back, by up to {lacking} sequences of the stream: a failover to a replica "
                "that lacked them, or a restore. They are read again from the stream: this worker stops, and goes on "
                "from where the database is when it is started again"
            )
        return FencedError(
            f"another worker ({', '.join(sorted(owners)) or 'unknown'}) writes partitions of this one; nothing is lost "
            "or doubled, but run one worker per partition: this one stops"
        )

    def _count(self, group: list[Outcomes]) -> None:
        now = time.time_ns()
        metrics.LAST_COMMIT.set(now / 1e9)
        for outcomes in group:
            messages = outcomes.batch.messages
            metrics.MESSAGES.labels(partition=str(outcomes.batch.partition)).inc(len(messages))
            metrics.LATENCY.observe([message.stored_at for message in messages], now)
            metrics.DUPLICATES.inc(outcomes.duplicate)
            for table, rows in outcomes.rows.items():
                metrics.ROWS.labels(table=table).inc(len(rows))
            for letter in outcomes.dead:
                metrics.DEAD_LETTERS.labels(stage=letter.stage, reason=letter.code).inc()


def new_owner() -> str:
    """A name for a writer that no other has: by it a partition's position tells who moved it."""
    return f"{instance()}:{random.getrandbits(32):08x}"


def _skipped(group: list[Outcomes]) -> list[Statement]:
    """For each partition, the messages of which nothing is stored: who reads the stream after us need not find out."""
    told: dict[int, tuple[list[int], list[int], list[str]]] = {}
    positions: dict[int, int] = {}
    for outcomes in group:
        seqs = outcomes.skipped()
        if seqs or outcomes.dead:
            skipped, dead, codes = told.setdefault(outcomes.batch.partition, ([], [], []))
            skipped += seqs
            dead += [letter.message.sequence for letter in outcomes.dead]
            codes += [letter.code for letter in outcomes.dead]
            positions[outcomes.batch.partition] = outcomes.batch.position
    return [
        (
            read("ingest/skipped.sql"),
            {
                "stream": group[0].batch.stream,
                "partition": partition,
                "position": positions[partition],
                "seqs": BIGINT.array(seqs),
                "dead_seqs": BIGINT.array(dead),
                "dead_codes": LABEL.array(codes),
            },
        )
        for partition, (seqs, dead, codes) in told.items()
    ]


def ensure_month(connection: Connection, day: date) -> None:
    """Make the partition of `spark_events` that a day falls in, if there is none."""
    row = connection.execute(read("ingest/ensure_month.sql"), {"day": day}).fetchone()
    if row and row[0]:
        _log.info("made partition", table=row[0])


_DEAD_LETTER: Final[dict[str, tuple[ColumnType, Callable[[int, DeadLetter], Any]]]] = {
    "stage": (LABEL, lambda _, letter: letter.stage),
    "code": (LABEL, lambda _, letter: letter.code),
    "reason": (
        TEXT,
        lambda _, letter: letter.reason.replace("\0", "\\0").encode("utf-8", "replace").decode(),
    ),
    "path": (LABEL, lambda _, letter: letter.path.replace("\0", "\\0")),
    "subject": (TEXT, lambda _, letter: letter.message.subject.replace("\0", "\\0")),
    "partition": (INTEGER, lambda partition, _: partition),
    "seq": (BIGINT, lambda _, letter: letter.message.sequence),
    "stored_at": (TIMESTAMP, lambda _, letter: letter.message.stored_at // 1000),
    "element": (INTEGER, lambda _, letter: letter.element),
    "payload": (BYTEA, lambda _, letter: letter.message.payload),
    "headers": (BYTEA, lambda _, letter: letter.message.headers),
}


def _dead_letter_arrays(dead: list[tuple[int, DeadLetter]]) -> dict[str, PgArray]:
    return {
        name: kind.array([value(partition, letter) for partition, letter in dead])
        for name, (kind, value) in _DEAD_LETTER.items()
    }
