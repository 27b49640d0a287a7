"""Page by page every row comes once, in order, and a cursor is one of ours or refused."""

import base64
import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from connectors.reads import Reader
from connectors.settings import Settings
from realtime import queries
from realtime.queries import RefusedReadError
from realtime.query_rows import FunctionCall, Moment, Page
from tests.support.read_data import START, Rows, Told, reading, simulate, walk
from tests.support.stack import Stack, connect


@pytest.fixture(scope="module")
def simulated(stack: Stack) -> Iterator[Told]:
    with simulate(stack) as told:
        yield told


def latest(rows: Rows, time: str) -> list[tuple[Any, Any]]:
    return sorted(((row[time], row["id"]) for row in rows), reverse=True)


limits = st.integers(1, 20) | st.sampled_from([1, 2, 499, 500])


@hypothesis_settings(max_examples=25, deadline=None)
@given(limits, st.just(-1) | st.integers(0, 11), st.data())
def test_walking_the_pages_gives_every_row_of_the_user_once_the_latest_first(
    simulated: Told, limit: int, who: int, data: st.DataObject
) -> None:
    user = simulated.users()[who] if who >= 0 else None
    name = data.draw(st.sampled_from([None, None, *sorted({row["name"] for row in simulated.calls}), "none"]))
    status = data.draw(st.sampled_from([None, "failed", "success"]))
    of = data.draw(st.sampled_from([None, None, *sorted(row["session_id"] for row in simulated.sessions)]))
    many = limit if user or of else max(limit, 50)

    async def all_lists(reader: Reader) -> None:
        own = simulated.of(simulated.sessions, user)
        for active in (False, True):
            found = await walk(reader, queries.sessions, user, limit=limit, active=active)
            wanted = [row for row in own if row["started_at"] and not (active and row["ended_at"])]
            assert [(one.started_at, one.id) for one in found] == latest(wanted, "started_at")
        calls = [
            row
            for row in simulated.of(simulated.calls, user)
            if name in (None, row["name"]) and status in (None, row["status"]) and of in (None, row["session_id"])
        ]
        called = await walk(reader, queries.function_calls, user, limit=many, session_id=of, name=name, status=status)
        assert [(one.ts, one.id) for one in called] == latest(calls, "ts")
        for read, rows, time in (
            (queries.scripts, simulated.scripts, "created_at"),
            (queries.previews, simulated.previews, "ts"),
            (queries.builds, simulated.builds, "created_at"),
        ):
            found = await walk(reader, read, user, limit=many, session_id=of)
            wanted = [row for row in simulated.of(rows, user) if of in (None, row["session_id"])]
            assert [(getattr(one, time), one.id) for one in found] == latest(wanted, time)

    reading(simulated.settings, all_lists)


@hypothesis_settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.data())
def test_a_timeline_holds_all_that_happened_in_a_session_in_order(
    simulated: Told, limit: int, data: st.DataObject
) -> None:
    session_id = data.draw(st.sampled_from(sorted(row["session_id"] for row in simulated.sessions)))
    wanted = sorted(
        (row.get("ts") or row["created_at"], kind, str(row["id"]))
        for kind, rows in (
            ("event", simulated.events),
            ("call", simulated.calls),
            ("script", simulated.scripts),
            ("preview", simulated.previews),
            ("build", simulated.builds),
            ("usage", simulated.usage),
        )
        for row in rows
        if row["session_id"] == session_id
    )
    owner = simulated.owner(session_id)
    for user in {None, owner}:
        found: list[Moment] = reading(simulated.settings, walk, queries.timeline, user, session_id, limit=limit)
        assert [(one.ts, one.kind, one.id) for one in found] == wanted
    others = [one for one in simulated.users() if one != owner]
    assert reading(simulated.settings, queries.timeline, others[0], session_id).items == []


@hypothesis_settings(max_examples=8, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 3), max_size=8))
def test_what_arrives_during_a_walk_neither_hides_a_row_nor_doubles_one(
    walked: Settings, limit: int, arrivals: list[int]
) -> None:
    with connect(walked) as connection:
        connection.execute("TRUNCATE spark_function_calls, spark_sessions, spark_usage")
        connection.execute("INSERT INTO spark_sessions (session_id, started_at) VALUES ('s', %s)", (START,))
        for number in range(20):
            call(connection, f"old-{number}", number // 7)
        arriving = itertools.cycle(arrivals) if arrivals else iter(())
        numbers = itertools.count()

        async def listed(reader: Reader, **more: Any) -> Page[FunctionCall]:
            for seconds in itertools.islice(arriving, 2):
                call(connection, f"new-{next(numbers)}", seconds)
            return await queries.function_calls(reader, None, **more)

        found = reading(walked, walk, listed, limit=limit)
        ids = [one.id for one in found]
        assert len(ids) == len(set(ids))
        assert {one.call_id for one in found} >= {f"old-{number}" for number in range(20)}

        async def happened(reader: Reader, **more: Any) -> Page[Moment]:
            for seconds in itertools.islice(arriving, 2):
                call(connection, f"new-{next(numbers)}", seconds)
            return await queries.timeline(reader, None, "s", **more)

        moments = reading(walked, walk, happened, limit=limit + 5)
        places = [one.place for one in moments]
        assert len(places) == len(set(places))
        assert len(moments) >= 20


@pytest.fixture(scope="module")
def walked(stack: Stack) -> Iterator[Settings]:
    with stack.provide() as settings:
        yield settings


def call(connection: psycopg.Connection, call_id: str, seconds: int) -> None:
    connection.execute(
        "INSERT INTO spark_function_calls (session_id, call_id, name, ts, status, updated_at) "
        "VALUES ('s', %s, 'f', %s, 'success', now())",
        (call_id, START + timedelta(seconds=seconds)),
    )


GIVEN = b'["function_calls",1772366400000000,"17"]'


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "\0",
        "=" * 8,
        GIVEN.decode(),
        base64.urlsafe_b64encode(GIVEN).decode(),  # with padding, which ours has not
        *(
            base64.urlsafe_b64encode(one).decode().rstrip("=")
            for one in (
                b'["function_calls",1772366400000000,"1;7"]',
                b'["function_calls",1772366400000000,"-17"]',
                b'["function_calls",1772366400000000,"99999999999999999999"]',
                b'["function_calls",1772366400000000,17]',
                b'["function_calls",1772366400000000.5,"17"]',
                b'["function_calls",17723664000000000000000000,"17"]',
                b'["function_calls",-99999999999999999,"17"]',
                b'["function_calls", 1772366400000000,"17"]',
                b'["scripts",1772366400000000,"17"]',
                b'["function_calls",1772366400000000,"17",1]',
                b'{"ts":1}',
                b"[]",
                b"null",
                b"\xff",
            )
        ),
    ],
)
def test_a_cursor_that_was_tampered_with_is_refused(walked: Settings, cursor: str) -> None:
    with pytest.raises(RefusedReadError, match="take `next` of the page before"):
        reading(walked, queries.function_calls, None, cursor=cursor)


def test_a_cursor_of_ours_is_taken(walked: Settings) -> None:
    cursor = base64.urlsafe_b64encode(GIVEN).decode().rstrip("=")
    reading(walked, queries.function_calls, None, cursor=cursor)
