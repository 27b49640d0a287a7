"""Holds the daily tables against the rows that they are counted from, and puts right what differs.

Totals follow the rows by a second or two. An audit is exact all the same: it looks at one snapshot, and where that
shows differences while something is still to be counted, it lets ingest wait for the moment that counting takes to
catch up (`LOCK TABLE slate.progress`; nothing is lost, and nobody who reads waits).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec
import psycopg
import structlog

from connectors import metrics
from connectors.errors import AuditError
from connectors.link import Connection, open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read

ROLLUPS: Final = ("usage", "errors", "events")
CATCH_UP_S: Final = 15.0
"""How long counting may take to catch up while ingest waits, seconds; its statements wait at most
`SLATE_DB_STATEMENT_TIMEOUT`."""
_LOCK_WAIT: Final = "5s"
_DAY: Final = timedelta(days=1)

_log = structlog.get_logger(__name__)


class Difference(msgspec.Struct, frozen=True):
    """A total that is not what the rows say; see `slate.rollup_differences`. None is no row."""

    rollup: str
    day: date
    key: str
    model: str
    counted: list[Decimal] | None
    wanted: list[Decimal] | None


def audit(
    settings: Settings, since: date, until: date, *, repair: bool = False, on_day: Callable[[date], None] | None = None
) -> Iterator[Difference]:
    """The differences of the days from `since` until before `until` (UTC); with `repair`, each day is put right in a
    transaction of its own. The workers may run meanwhile, and one must where something is still to be counted.

    Raises:
        AuditError: counting did not catch up: no worker runs, or it is far behind.
        ConnectionFailedError: PostgreSQL cannot be reached.
        SchemaError: the schema is not there.
    """
    try:
        with open_connection(settings, "slate-audit") as connection:
            day = since
            while day < until:
                yield from _audit_day(connection, settings, day, repair=repair)
                if on_day is not None:
                    on_day(day)
                day += _DAY
    except psycopg.errors.LockNotAvailable:
        raise AuditError(f"ingest did not stop for a moment within {_LOCK_WAIT}: is PostgreSQL overloaded?") from None
    except psycopg.Error as error:
        raise as_slate_error(error) from None


def _audit_day(connection: Connection, settings: Settings, day: date, *, repair: bool) -> list[Difference]:
    with _snapshot(connection):
        behind = _behind(connection, settings)
        found = _differences(connection, "audit/differences.sql", day)
    if not found or not (behind or repair):
        return found
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_WAIT,))
        connection.execute(read("audit/pause_ingest.sql"))
        _await_counting(connection, settings)
        return _differences(connection, "audit/repair.sql" if repair else "audit/differences.sql", day)


def _await_counting(connection: Connection, settings: Settings) -> None:
    deadline = time.monotonic() + CATCH_UP_S
    while behind := _behind(connection, settings):
        if time.monotonic() > deadline:
            raise AuditError(
                f"{behind:,} stored messages are not counted yet, so differences of the totals mean nothing: "
                "start `python -m bytewax.run flows.rollups`, or wait until it has caught up"
            )
        time.sleep(0.05)  # ingest waits for us: look often, and briefly


def _behind(connection: Connection, settings: Settings) -> int:
    row = connection.execute(read("audit/at_rest.sql"), {"stream": settings.stream}).fetchone()
    return int(row[0]) if row else 0


def _differences(connection: Connection, statement: str, since: date, until: date | None = None) -> list[Difference]:
    rows = connection.execute(read(statement), {"since": since, "until": until or since + _DAY})
    return [Difference(*row) for row in rows]


@contextmanager
def _snapshot(connection: Connection) -> Iterator[None]:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield
    finally:
        connection.isolation_level = None


def watch_drift(settings: Settings, shutdown: Shutdown) -> None:
    """Keep `spark_rollup_drift` up to date, on a thread of its own, as often as `SLATE_AUDIT_EVERY` says."""
    if settings.audit_every_s:
        threading.Thread(target=_watch, args=(settings, shutdown), name="drift", daemon=True).start()


def _watch(settings: Settings, shutdown: Shutdown) -> None:
    while not shutdown.wait(settings.audit_every_s):
        try:
            with open_connection(settings, "slate-drift") as connection:
                measure_drift(connection, settings)
        except psycopg.Error as error:
            _log.warning("cannot audit now", error=str(error).strip())


def measure_drift(connection: Connection, settings: Settings) -> list[Difference]:
    """The differences of yesterday, and of today if the snapshot shows all counted; nobody waits for it."""
    today = datetime.now(UTC).date()
    with _snapshot(connection):
        until = today if _behind(connection, settings) else today + _DAY
        found = _differences(connection, "audit/differences.sql", today - _DAY, until)
    for rollup in ROLLUPS:
        metrics.ROLLUP_DRIFT.labels(rollup=rollup).set(sum(one.rollup == rollup for one in found))
    if found:
        _log.error("totals differ from the tables", differences=len(found), remedy="slate audit --repair")
    return found
