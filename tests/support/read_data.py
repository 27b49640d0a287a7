"""Sessions of the simulator, stored by ingest and counted by the rollups, and what the tables say of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from connectors.messages import NatsSourceMessage
from connectors.reads import Reader
from connectors.settings import Settings
from realtime.query_rows import Page
from realtime.simulator import Plan, events
from tests.support.messages import header_block
from tests.support.rollups import pipeline
from tests.support.stack import Stack, connect

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Rows = list[dict[str, Any]]


class Told(NamedTuple):
    """What the tables hold, whole."""

    settings: Settings
    sessions: Rows
    calls: Rows
    scripts: Rows
    previews: Rows
    builds: Rows
    usage: Rows
    events: Rows

    def owner(self, session_id: str) -> UUID | None:
        return next((row["user_id"] for row in self.sessions if row["session_id"] == session_id), None)

    def of(self, rows: Rows, user: UUID | None) -> Rows:
        return [row for row in rows if user is None or self.owner(row["session_id"]) == user]

    def users(self) -> list[UUID]:
        return sorted({row["user_id"] for row in self.sessions if row["user_id"]}, key=str)


def told(settings: Settings) -> Told:
    names = ("sessions", "function_calls", "generated_scripts", "previews", "build_jobs", "usage", "events")
    with connect(settings) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return Told(settings, *(cursor.execute(f"SELECT * FROM spark_{one}".encode()).fetchall() for one in names))


@contextmanager
def simulate(stack: Stack) -> Iterator[Told]:
    """Twenty-five minutes of simulated sessions, stored by ingest and counted by the rollups."""
    plan = Plan(start=START, sessions=30, rate=4, messages=6000, invalid=0.01, duplicates=0.01)
    with stack.provide() as settings, pipeline(settings, 1) as flow:
        for number, event in enumerate(events(plan)):
            headers = header_block({"Nats-Msg-Id": event.msg_id or str(number)})
            stored_at = int((START.timestamp() + event.due) * 1e9)
            flow.publish(0, NatsSourceMessage(event.subject, event.payload, 1, stored_at, headers))
        flow.finish()
        one = told(settings)
        assert min(map(len, one[1:])) > 20
        assert len(one.users()) > 10
        label = {"user": str(one.users()[0])}
        session = {"session": next(r["session_id"] for r in one.sessions if r["user_id"] == one.users()[1])}
        for number, labels in enumerate(({}, label, session, {"user": str(uuid4())})):
            _alert(flow.connection, number, labels)
        yield one


def _alert(connection: psycopg.Connection, number: int, labels: dict[str, str]) -> None:
    severity = {"severity": ["info", "critical", "warning", "info"][number]}
    connection.execute(
        "INSERT INTO slate.alerts (stream, rule, fingerprint, state, labels, annotations, value, reason, starts_at) "
        "VALUES ('S', %(rule)s, 'f', 'firing', %(labels)s, '{}', 0.1, 'because', now())",
        {"rule": f"rule-{number}", "labels": json.dumps(labels | severity)},
    )
    connection.execute(
        "INSERT INTO slate.alert_states (stream, rule, fingerprint, labels, status, since, samples, reason) "
        "VALUES ('S', %(rule)s, 'f', %(labels)s, 'firing', now(), 3, 'because')",
        {"rule": f"rule-{number}", "labels": json.dumps(labels | severity)},
    )


def reading(settings: Settings, read: Callable[..., Awaitable[Any]], *of: object, **more: object) -> Any:
    """What a read gives."""

    async def run() -> Any:
        async with Reader(settings) as reader:
            return await read(reader, *of, **more)

    return asyncio.run(run())


async def walk(
    reader: Reader, read: Callable[..., Awaitable[Page[Any]]], *of: object, limit: int, **more: Any
) -> list[Any]:
    """All pages of a list."""
    found: list[Any] = []
    cursor = None
    while True:
        page = await read(reader, *of, cursor=cursor, limit=limit, **more)
        assert page.items or cursor is None
        assert len(page.items) == limit or page.next is None
        assert page.next is None or page.next != cursor
        found += page.items
        cursor = page.next
        if cursor is None:
            return found
