"""The daily tables and windows as a Bytewax sink, and the place where counting resumes.

Guarantee: exactly-once. What is added and the position up to which it was counted are one transaction, so whatever is
killed, the totals and the place where counting resumes agree. They are in the database that holds the rows themselves:
there is no second store that could be lost, be stale or be another's.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
import structlog
from bytewax.outputs import DynamicSink

from connectors import metrics
from connectors.arrays import BIGINT, DATE, INTEGER, JSON, LABEL, TEXT, TIMESTAMP
from connectors.background import BackgroundSink
from connectors.errors import ConnectionFailedError, FencedError
from connectors.faults import Fault
from connectors.history import History
from connectors.jetstream import partition_numbers
from connectors.link import Connection, Link, Statement, open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read
from connectors.stream_state import StreamState
from connectors.sums import MINUTE_US, TICK_US, Counted, Sums, Totals, Window, WindowKey, add_window
from connectors.writer import new_owner

_MOST_MESSAGES: Final = 50_000  # in a transaction, however little time has passed: bounds what is held in memory
_MINUTES: Final = 5
_TRIES: Final = 5
_MISSED: Final = "messages left the stream before they were counted"
_WINDOWS_KEPT: Final = timedelta(days=30)

Complete = Callable[[Sums], Totals]

_log = structlog.get_logger(__name__)


class RollupProgress:
    """Positions of partitions in `slate.rollup_progress`: where `SettledSource` resumes.

    Where counting cannot go on, because it never began or because the stream no longer holds what was not counted, all
    is counted anew from the tables, in one transaction, and goes on from where ingest was in it.
    """

    def __init__(self, settings: Settings, shutdown: Shutdown) -> None:
        settings.dsn()
        self._settings = settings
        self._shutdown = shutdown

    def start(self, partition: int, state: StreamState) -> int:
        """The position after which to count.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached, or ingest has not begun to read this partition.
            SchemaError: the schema is not there.
        """
        try:
            with open_connection(self._settings, "slate-rollup-progress") as connection:
                key = {"stream": state.stream, "partition": partition}

                def why_anew() -> str | None:
                    return _why_anew(_position(connection, partition, state), state)

                position = _position(connection, partition, state)
                connection.execute(read("rollups/awake.sql"), key)
                if position.counted is None:
                    connection.execute(read("rollups/begin.sql"), key | {"whole": state.first <= 1})
                    position = _position(connection, partition, state)
                if why := why_anew():
                    rebuild(connection, state.stream, why, why_anew)
                    position = _position(connection, partition, state)
                assert position.counted is not None  # noqa: S101 - counting anew makes the row
                return position.counted
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def gap(self, partition: int, first: int, last: int) -> None:
        """Sequences left the stream before they were counted: count anew, and stop, to go on from there.

        Raises:
            ConnectionFailedError: PostgreSQL cannot be reached.
        """
        try:
            with open_connection(self._settings, "slate-rollup-progress") as connection:

                def missed() -> str | None:
                    row = connection.execute(
                        read("rollups/position.sql"), {"stream": self._settings.stream, "partition": partition}
                    ).fetchone()
                    # what ingest did not read either is in no table
                    return (
                        _MISSED if row and row[0] is not None and row[0] < last and row[2] >= first and row[3] else None
                    )

                if why := missed():
                    rebuild(connection, self._settings.stream, why, missed)
                    self._shutdown.request()
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    def newest(self, state: StreamState) -> None:
        """Not known: ingest knows it, and has all counted anew where the stream lost its end."""

    def put_back(self, state: StreamState, last: int) -> None:
        """Nothing: as above."""


class _Position(NamedTuple):
    """Where a partition is counted up to and of which stream, None for nowhere; up to where it is stored, and how many
    messages that are stored are not counted."""

    counted: int | None
    created: datetime | None
    stored: int
    uncounted: int


def _position(connection: Connection, partition: int, state: StreamState) -> _Position:
    row = connection.execute(read("rollups/position.sql"), {"stream": state.stream, "partition": partition}).fetchone()
    if row is None or row[4] != state.created:
        raise ConnectionFailedError("ingest has not begun to read this partition: is flows.ingest running?")
    return _Position(*row[:4])


def _why_anew(position: _Position, state: StreamState) -> str | None:
    """Why counting cannot go on from a position, None where it can."""
    if position.counted is None:
        return "nothing was counted before, and the stream no longer holds all"
    if position.created != state.created:
        return "the stream was made anew"
    if position.counted < 0:
        return "the stream lost its end, and has other messages there"
    if position.counted < min(state.first - 1, position.stored) and position.uncounted:
        return _MISSED  # or not: what is uncounted may all be in the stream; counting anew is right in any case
    return None


def rebuild(connection: Connection, stream: str, why: str, still: Callable[[], str | None]) -> None:
    """Count all days and the windows that are kept from the tables, and go on from where ingest is.

    `still` is asked once nobody else counts: another worker may have done it meanwhile.

    Raises:
        psycopg.Error: it did not work; nothing is changed.
    """
    log = _log.bind(why=why)
    log.warning("counting anew from the tables")
    for left in reversed(range(_TRIES)):
        try:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                connection.execute(read("rollups/rebuild_begin.sql"))
                if still() is None:
                    return
                everything = {"since": "2020-01-01", "until": "infinity"}
                wrong = connection.execute(read("audit/repair.sql"), everything).rowcount
                since = datetime.now(UTC) - _WINDOWS_KEPT
                connection.execute(read("rollups/rebuild_windows.sql"), {"since": since.replace(minute=0, second=0)})
                connection.execute(read("rollups/rebuild_end.sql"), {"stream": stream})
            log.info("counted anew", totals_that_differed=wrong)
            return
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            if not left:
                raise
        finally:
            connection.isolation_level = None


class RollupWriter:
    """Adds what was counted to the tables, from one thread.

    Args:
        settings: names the server, and the grace after which a window is closed.
        shutdown: after it, a server that stays away is waited for 15 s only.
        complete: what the sums of a transaction come to.
        history: of the database in which it was seen what is stored.
    """

    def __init__(self, settings: Settings, shutdown: Shutdown, complete: Complete, history: History) -> None:
        self._complete = complete
        self._history = history
        self._link = Link(settings, "slate-rollups", shutdown)
        self._owner = new_owner()
        self._grace_us = int(settings.window_grace_s * 1_000_000)
        self._close = {
            "stream": settings.stream,
            "all_partitions": INTEGER.array(partition_numbers(settings)),
            "grace": settings.window_grace_s,
        }
        self.watermark: int | None = None
        """The event time that every partition had come past at the last transaction, microseconds since 1970."""

    def write(self, group: list[Counted]) -> None:
        """Return when the group is stored. Parts of one partition must follow each other.

        Raises:
            FencedError: another worker counts one of the partitions, or the database has gone back.
            ConnectionFailedError: shutdown was requested and the server stayed away.
        """
        sums = Sums()
        for counted in group:
            sums.add(counted.sums)
        totals = self._complete(sums)
        late = 0
        uncertain = False
        while True:
            try:
                if not (uncertain and self._is_written(group)):
                    statements, late = self._statements(group, totals)
                    rows = self._link.transact(statements)
                    reached = rows[0][0]
                    self.watermark = int(reached.timestamp() * 1_000_000) if reached is not None else None
                self._count(group, late)
                return
            except psycopg.Error as error:
                fault = self._link.recover(error)
                if fault is Fault.FENCED:
                    raise FencedError(
                        "another worker counts partitions of this one, all was counted anew, or the database has gone "
                        "back (a failover, a restore); no total is wrong: this worker stops, and goes on from there "
                        "when it is started again"
                    ) from None
                if fault is Fault.DATA:
                    self._drop_impossible(totals, error)
                    continue
                metrics.ROLLUP_RETRIES.labels(reason=error.sqlstate or type(error).__name__).inc()
                self._link.wait(error, fault)
                uncertain = True

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _statements(self, group: list[Counted], totals: Totals) -> tuple[list[Statement], int]:
        """The whole transaction, and how much of it came late; positions first, as in ingest."""
        windows = _lengths(totals.windows)
        lates = [self._late(key, seconds, window) for (seconds, key), window in windows.items()]
        statements = [(read("rollups/advance.sql"), self._advance(group))]
        if totals.usage:
            statements.append((read("rollups/usage_daily.sql"), _usage_arrays(totals)))
        if totals.calls:
            statements += _call_statements(totals)
        if totals.events:
            statements.append((read("rollups/events_daily.sql"), _event_arrays(totals)))
        if windows:
            statements += _window_statements(windows, lates)
        if totals.signals:
            statements.append((read("alerts/append.sql"), _signal_arrays(totals)))
        statements.append((read("rollups/close.sql"), self._close))
        return statements, sum(late for (seconds, _), late in zip(windows, lates, strict=True) if seconds == 60)

    def _advance(self, group: list[Counted]) -> dict[str, Any]:
        moves: dict[int, Counted] = {}
        calls: list[int] = []
        for counted in group:
            calls += counted.calls
            known = moves.get(counted.partition)
            moves[counted.partition] = (
                counted
                if known is None
                else msgspec.structs.replace(
                    counted,
                    after=known.after,
                    read=known.read + counted.read,
                    watermark=max((w for w in (known.watermark, counted.watermark) if w is not None), default=None),
                    moved=known.moved if counted.moved is None else counted.moved,
                )
            )
        ordered = [moves[partition] for partition in sorted(moves)]
        return {
            "stream": group[0].stream,
            "owner": self._owner,
            "timeline": self._history.timeline,
            "partitions": INTEGER.array([one.partition for one in ordered]),
            "afters": BIGINT.array([one.after for one in ordered]),
            "positions": BIGINT.array([one.position for one in ordered]),
            "reads": BIGINT.array([one.read for one in ordered]),
            "watermarks": TIMESTAMP.array([one.watermark for one in ordered]),
            "moved_ats": TIMESTAMP.array([one.moved for one in ordered]),
            "drained_ats": TIMESTAMP.array([one.drained for one in ordered]),
            "call_seqs": BIGINT.array(calls),
        }

    def _late(self, key: WindowKey, seconds: int, window: Window) -> int:
        """How much of what is added comes after nothing more was expected."""
        end = key[0] * MINUTE_US + seconds * 1_000_000
        is_late = self.watermark is not None and end + self._grace_us <= self.watermark
        return max(window.count, 0) if is_late else 0

    def _is_written(self, group: list[Counted]) -> bool:
        """Whether only the answer to the commit was lost: one partition that moves tells it of all."""
        moved = {counted.partition: counted.position for counted in group if counted.position > counted.after}
        if not moved:
            return True  # nothing is counted where nothing moves
        partition, position = moved.popitem()
        rows = self._link.connection().execute(
            read("rollups/positions.sql"), {"stream": group[0].stream, "partitions": [partition]}
        )
        return [tuple(row) for row in rows] == [(partition, position, self._owner)]

    def _drop_impossible(self, totals: Totals, error: psycopg.Error) -> None:
        """Leave out what no column can hold: by then the table cannot hold its total, either."""
        refused = [key for key in totals.usage if not self._holds(key, totals)]
        if not refused:
            raise error
        for key in refused:
            _log.error(
                "a total is beyond its column, and not counted on",
                day=key[0],
                session_id=key[1],
                model=key[2],
                error=error.diag.message_primary,
            )
            metrics.ROLLUP_REFUSED.inc()
            del totals.usage[key]

    def _holds(self, key: tuple[int, str, str], totals: Totals) -> bool:
        one = Totals(usage={key: totals.usage[key]})
        connection = self._link.connection()
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(read("rollups/usage_daily.sql"), _usage_arrays(one))
        except psycopg.DataError:
            return False
        return True

    def _count(self, group: list[Counted], late: int) -> None:
        for counted in group:
            metrics.ROLLUP_MESSAGES.labels(partition=str(counted.partition)).inc(counted.read)
        metrics.ROLLUP_LATE.inc(late)
        metrics.ROLLUP_LAST_COMMIT.set_to_current_time()


def _lengths(minutes: dict[WindowKey, Window]) -> dict[tuple[int, WindowKey], Window]:
    """Windows of one minute and of five, by length in seconds and key, without what comes to nothing."""
    fives: dict[WindowKey, Window] = {}
    for key, window in minutes.items():
        add_window(fives, (key[0] // _MINUTES * _MINUTES, *key[1:]), window)
    found = {(60, key): window for key, window in minutes.items()}
    found |= {(300, key): window for key, window in fives.items()}
    for window in found.values():
        window.bins = {place: count for place, count in window.bins.items() if count}
    return {key: window for key, window in found.items() if window.count or window.bins}


def _usage_arrays(totals: Totals) -> dict[str, Any]:
    days, sessions, models = zip(*totals.usage, strict=True)
    prompt, completion, cost = zip(*totals.usage.values(), strict=True)
    return {
        "day": DATE.array(days),
        "session_id": TEXT.array(sessions),
        "model": LABEL.array(models),
        "tokens_prompt": BIGINT.array(prompt),
        "tokens_completion": BIGINT.array(completion),
        "cost": BIGINT.array(cost),
    }


def _call_statements(totals: Totals) -> list[Statement]:
    changed = {key: values for key, values in totals.calls.items() if any(values)}
    if not changed:
        return []
    arrays = _day_keys(changed, "name")
    successes, errors = zip(*changed.values(), strict=True)
    added = arrays | {"successes": BIGINT.array(successes), "errors": BIGINT.array(errors)}
    statements: list[Statement] = [(read("rollups/errors_daily.sql"), added)]
    if min(*successes, *errors) < 0:
        statements.append((read("rollups/errors_daily_gone.sql"), arrays))
    return statements


def _event_arrays(totals: Totals) -> dict[str, Any]:
    return _day_keys(totals.events, "type") | {"event_count": BIGINT.array(list(totals.events.values()))}


def _day_keys(keys: dict[tuple[int, str], Any], name: str) -> dict[str, Any]:
    days, names = zip(*keys, strict=True)
    return {"day": DATE.array(days), name: LABEL.array(names)}


def _window_statements(windows: dict[tuple[int, WindowKey], Window], lates: Sequence[int]) -> list[Statement]:
    keys, values = list(windows), list(windows.values())
    arrays = {
        "start": TIMESTAMP.array([key[0] * MINUTE_US for _, key in keys]),
        "seconds": INTEGER.array([seconds for seconds, _ in keys]),
        "key": LABEL.array([key[2] for _, key in keys]),
        "status": LABEL.array([key[3] for _, key in keys]),
    }
    more = {
        "signal": LABEL.array([key[1] for _, key in keys]),
        "count": BIGINT.array([one.count for one in values]),
        "tokens_prompt": BIGINT.array([one.tokens_prompt for one in values]),
        "tokens_completion": BIGINT.array([one.tokens_completion for one in values]),
        "cost": BIGINT.array([one.cost for one in values]),
        "bins": JSON.array([msgspec.json.encode(one.bins) for one in values]),
        "late": BIGINT.array(lates),
    }
    statements: list[Statement] = [(read("rollups/windows.sql"), arrays | more)]
    if any(one.count < 0 for one in values):
        statements.append((read("rollups/windows_gone.sql"), arrays))
    return statements


def _signal_arrays(totals: Totals) -> dict[str, Any]:
    ticks, signals, keys, details, sessions = zip(*totals.signals, strict=True)
    values = list(totals.signals.values())  # also what comes to nothing: a call that failed and then did not
    return {
        "at": TIMESTAMP.array([tick * TICK_US for tick in ticks]),
        "signal": LABEL.array(signals),
        "key": LABEL.array(keys),
        "detail": LABEL.array(details),
        "session_id": LABEL.array(sessions),
        "count": BIGINT.array([one.count for one in values]),
        "tokens": BIGINT.array([one.tokens_prompt + one.tokens_completion for one in values]),
        "cost": BIGINT.array([one.cost for one in values]),
        "bins": JSON.array([msgspec.json.encode(one.bins) for one in values]),
    }


class RollupSink(DynamicSink[Counted]):
    """Adds what was counted, every `SLATE_ROLLUP_FLUSH` seconds, in one transaction."""

    def __init__(self, settings: Settings, shutdown: Shutdown, complete: Complete, history: History) -> None:
        settings.dsn()
        self._settings = settings
        self._shutdown = shutdown
        self._complete = complete
        self._history = history

    def build(self, step_id: str, worker_index: int, worker_count: int) -> BackgroundSink[Counted]:
        """One writer per worker; partitions never cross workers, for sums need no exchange."""
        writer = RollupWriter(self._settings, self._shutdown, self._complete, self._history)

        def write(group: list[Counted]) -> None:
            with metrics.ROLLUP_FLUSH_SECONDS.time():
                writer.write(group)

        return BackgroundSink(
            write,
            lambda counted: (counted.read, 0),
            (_MOST_MESSAGES, 1),
            self._shutdown,
            every=self._settings.rollup_flush_s,
            close=writer.close,
        )
