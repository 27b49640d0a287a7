"""What is done once a day: months ahead, months and windows that are over, and an audit of yesterday.

Safe to run twice, and on two hosts at once: one does it, the other says so. Each step leaves a state from which the
next run goes on, whenever this one is killed.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Final

import msgspec
import psycopg
import structlog
from psycopg import sql

from connectors.frames import frame_store
from connectors.link import Connection, open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.sql import read
from flows.audit import audit

CHUNK: Final = 10_000
"""Rows that are deleted in one transaction."""
_EVENTS: Final = sql.Identifier("public", "spark_events")

_log = structlog.get_logger(__name__)


class Step(msgspec.Struct, frozen=True):
    """Something that was done, in a sentence; `well` is false where a person must look at it."""

    text: str
    well: bool = True


def maintain(settings: Settings, now: datetime) -> Iterator[Step]:
    """Do what is due at `now` (aware), and say so step by step.

    Raises:
        AuditError: yesterday cannot be audited, for nothing counts what is stored.
        ConnectionFailedError: PostgreSQL cannot be reached.
        SchemaError: the schema is not there, or the role may not change it.
    """
    try:
        # The lock is a transaction's, on a connection of its own: a pooler would not keep one of a session.
        with open_connection(settings, "slate-maintain-lock") as lock, lock.transaction():
            row = lock.execute(read("maintenance/try_lock.sql")).fetchone()
            if row is None or not row[0]:
                yield Step("Another run is under way, and does it")
                return
            with open_connection(settings, "slate-maintain") as connection:
                yield from _months_ahead(connection, now)
                yield from _old_months(connection, settings, now)
                yield from _old_rows(connection, settings, now)
                yield from _old_previews(connection, settings, now)
            yield from _audit_yesterday(settings, now)
    except psycopg.Error as error:
        raise as_slate_error(error) from None


def _months_ahead(connection: Connection, now: datetime) -> Iterator[Step]:
    rows = connection.execute(read("maintenance/months_ahead.sql"), {"today": now.date()}).fetchall()
    yield Step(f"Made {', '.join(name for (name,) in rows)}" if rows else "Months: there for three months to come")


def _old_months(connection: Connection, settings: Settings, now: datetime) -> Iterator[Step]:
    """Let go of the months that are kept no longer: said first, then detached, then dropped or put aside."""
    if not settings.retain_events_months:
        return
    before = _months_before(now.date(), settings.retain_events_months)
    for name, month, state in connection.execute(read("maintenance/old_months.sql"), {"before": before}).fetchall():
        connection.execute(read("maintenance/dropped_month.sql"), {"month": month})
        table = sql.Identifier("public", name)
        if state != "detached":
            how = "FINALIZE" if state == "pending" else "CONCURRENTLY"
            # nosemgrep: sql-built-in-python - one of two words
            connection.execute(sql.SQL(f"ALTER TABLE {{}} DETACH PARTITION {{}} {how}").format(_EVENTS, table))
        if settings.retain_detached:
            _put_aside(connection, name)
            yield Step(f"Put {name} aside as slate.{name}")
        else:
            connection.execute(sql.SQL("DROP TABLE {}").format(table))
            yield Step(f"Dropped {name}")


def _put_aside(connection: Connection, name: str) -> None:
    """Move a detached month to the schema slate; what came late for one that is there already is added to it."""
    here, there = sql.Identifier("public", name), sql.Identifier("slate", name)
    with connection.transaction():
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"slate.{name}",)).fetchone()
        if row and row[0]:
            connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM {}").format(there, here))
            connection.execute(sql.SQL("DROP TABLE {}").format(here))
        else:
            connection.execute(sql.SQL("ALTER TABLE {} SET SCHEMA slate").format(here))


def _months_before(day: date, months: int) -> date:
    """The first day of the month that is so many months before a day's month."""
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)


def _old_rows(connection: Connection, settings: Settings, now: datetime) -> Iterator[Step]:
    for what, days in (
        ("windows", settings.retain_windows_days),
        ("alerts", settings.retain_alerts_days),
        ("dead_letters", settings.retain_dead_letters_days),
        ("telemetry", settings.retain_content_days),
        ("scripts", settings.retain_content_days),
        ("builds", settings.retain_content_days),
    ):
        if not days:
            continue
        parameters = {"before": now - timedelta(days=days), "most": CHUNK}
        deleted = 0
        while gone := connection.execute(read(f"maintenance/old_{what}.sql"), parameters).rowcount:
            deleted += gone
        if deleted:
            yield Step(f"Deleted {deleted:,} {what.replace('_', ' ')} older than {days} days")


def _old_previews(connection: Connection, settings: Settings, now: datetime) -> Iterator[Step]:
    """Pictures go before the rows that name them: killed in between, the next run finds them again."""
    if not settings.retain_content_days:
        return
    parameters = {"before": now - timedelta(days=settings.retain_content_days), "most": CHUNK}
    deleted = pictures = 0
    while page := connection.execute(read("maintenance/old_previews.sql"), parameters).fetchall():
        pictures += asyncio.run(_remove(settings, sorted({frame for _, frame in page if frame is not None})))
        gone = [id_ for id_, _ in page]
        deleted += connection.execute("DELETE FROM public.spark_previews WHERE id = any(%s)", (gone,)).rowcount
    if deleted:
        yield Step(
            f"Deleted {deleted:,} previews older than {settings.retain_content_days} days, and {pictures:,} pictures"
        )


async def _remove(settings: Settings, frames: Sequence[str]) -> int:
    store = frame_store(settings.frame_store_url, settings.frames_token)
    try:
        return sum([await store.remove(frame) for frame in frames])
    finally:
        await store.close()


def _audit_yesterday(settings: Settings, now: datetime) -> Iterator[Step]:
    today = now.date()
    yesterday = today - timedelta(days=1)
    found = list(audit(settings, yesterday, today))
    if found:
        yield Step(f"Audit of {yesterday}: {len(found):,} totals differ; `slate audit --repair` puts them right", False)
    else:
        yield Step(f"Audit of {yesterday}: no difference")
