"""However messages about one thing are ordered and cut into batches, its row ends as the contract's rules say.

The rules are written down once more here, over all messages at once, which are lists in the order of arrival: that
decides between messages of the same event time.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.arrays import register
from connectors.schema import migrate
from connectors.tables import Row, Table
from flows.rows import BUILD_JOBS, FUNCTION_CALLS, SESSIONS, TABLES
from tests.support.stack import Stack, connect

T = TypeVar("T")
BY_NAME = {table.name: table for table in TABLES}
SECOND = 1_000_000  # event times are in microseconds
BASE = 1_740_787_200  # 2025-03-01 UTC, epoch seconds
USERS = [UUID(int=1), UUID(int=2)]

# Few keys and few times, so that messages meet.
times = st.integers(BASE, BASE + 4)
sequences = count(1)
labels = st.sampled_from(["a", "b", "c"])
documents = st.one_of(st.none(), st.integers(0, 3).map(lambda n: {"n": n}))
users = st.sampled_from([None, *USERS])


class Call(NamedTuple):
    session: str
    call: str
    name: str
    ts: int
    duration: int | None
    status: str
    error: str | None
    args: dict[str, int] | None
    output: dict[str, int] | None
    user: UUID | None
    project: UUID | None


class Session(NamedTuple):
    session: str
    connects: bool
    ts: int
    user: UUID | None
    model: str | None
    mode: str | None
    meta: dict[str, int] | None


class Build(NamedTuple):
    job: str
    session: str
    target: str | None
    status: str
    ts: int


calls = st.builds(
    Call,
    labels,
    st.sampled_from(["1", "2"]),
    labels,
    times,
    st.one_of(st.none(), st.integers(0, 9)),
    st.sampled_from(["success", "failed"]),
    st.one_of(st.none(), labels),
    documents,
    documents,
    users,
    users,
)
sessions = st.builds(
    Session,
    labels,
    st.booleans(),
    times,
    users,
    st.one_of(st.none(), labels),
    st.sampled_from([None, "creative", "deterministic", "hybrid"]),
    documents,
)
builds = st.builds(
    Build,
    labels,
    labels,
    st.one_of(st.none(), labels),
    st.sampled_from(["queued", "building", "completed", "failed"]),
    times,
)


def first(messages: Sequence[T], ts: Callable[[T], int]) -> T:
    """The earliest by event time; of several, the one that came first."""
    return min(enumerate(messages), key=lambda one: (ts(one[1]), one[0]))[1]


def last(messages: Sequence[T], ts: Callable[[T], int]) -> T:
    """The latest by event time; of several, the one that came last."""
    return max(enumerate(messages), key=lambda one: (ts(one[1]), one[0]))[1]


def call_row(messages: list[Call]) -> Row:
    begin, end = (pick(messages, lambda message: message.ts) for pick in (first, last))
    beginning = (begin.session, begin.call, begin.name, begin.ts, begin.args, begin.user, begin.project)
    return (*beginning, end.duration, end.status, end.error, end.output)


def session_row(messages: list[Session]) -> Row:
    def told(field: str, otherwise: Any) -> Any:
        telling = [message for message in messages if getattr(message, field) is not None]
        return getattr(last(telling, lambda message: message.ts), field) if telling else otherwise

    connected = [message.ts for message in messages if message.connects]
    disconnected = [message.ts for message in messages if not message.connects]
    active = not disconnected or (connected and max(connected) > max(disconnected))
    return (
        messages[0].session,
        told("user", None),
        told("model", "unknown"),
        told("mode", "hybrid"),
        min(connected, default=None),
        None if active else max(disconnected),
        told("meta", {}),
    )


def build_row(messages: list[Build]) -> Row:
    finished = [message for message in messages if message.status in ("completed", "failed")]
    # of the same event time, a failure outweighs a success, and a start a wait
    told = max(finished or messages, key=lambda message: (message.ts, message.status in ("failed", "building")))
    targets = [message for message in messages if message.target is not None]
    return (
        messages[0].job,
        first(messages, lambda message: message.ts).session,
        last(targets, lambda message: message.ts).target if targets else None,
        told.status,
        min(message.ts for message in messages),
        max(message.ts for message in messages),
    )


def to_json(document: dict[str, int] | None) -> bytes | None:
    return None if document is None else str(document).replace("'", '"').encode()


def to_bytes(user: UUID | None) -> bytes | None:
    return user.bytes if user else None


def of_call(message: Call) -> Row:
    told = message._replace(ts=message.ts * SECOND)._asdict()
    told |= {"args": to_json(message.args), "output": to_json(message.output)}
    told |= {"user": to_bytes(message.user), "project": to_bytes(message.project)}
    return (None, *told.values(), next(sequences))


def of_session(message: Session) -> Row:
    at = message.ts * SECOND
    times = (at, None) if message.connects else (None, at)
    user, meta = to_bytes(message.user), to_json(message.meta)
    return (None, message.session, *times, user, message.model, message.mode, meta)


def of_build(message: Build) -> Row:
    return (None, *message._replace(ts=message.ts * SECOND))


@pytest.fixture(scope="module")
def connection(stack: Stack) -> Iterator[psycopg.Connection]:
    with stack.provide(migrated=False) as settings:
        migrate(settings)
        with connect(settings) as connection:
            register(connection.adapters)
            yield connection


def stored(connection: psycopg.Connection, table: Table, rows: list[Row], cuts: list[int], columns: str) -> list[Row]:
    """What a table holds after these rows, in their order, cut into batches at these places."""
    places = [0, *sorted({cut % (len(rows) + 1) for cut in cuts}), len(rows)]
    with connection.transaction(force_rollback=True):
        for begin, end in pairwise(places):
            if begin < end:
                for turn in table.turns(rows[begin:end]):
                    connection.execute(table.sql.encode(), table.parameters(turn) | {"stream": "S"})
        return connection.execute(f"SELECT {columns} FROM {table.name} AS stored ORDER BY 1, 2".encode()).fetchall()


def expected(messages: Sequence[T], key: Callable[[T], Any], row: Callable[[list[T]], Row]) -> list[Row]:
    keys = sorted({key(message) for message in messages})
    return [row([message for message in messages if key(message) == one]) for one in keys]


def epoch(column: str) -> str:
    return f"extract(epoch FROM {column})::bigint"


cuts = st.lists(st.integers(0, 12), max_size=4)
thorough = settings(max_examples=300, deadline=None)


@thorough
@given(messages=st.lists(calls, min_size=1, max_size=12), cuts=cuts)
def test_a_call_begins_as_its_first_message_says_and_ends_as_its_last(
    connection: psycopg.Connection, messages: list[Call], cuts: list[int]
) -> None:
    columns = f"session_id, call_id, name, {epoch('ts')}, args, user_id, project_id, duration_ms, status, error, output"
    found = stored(connection, BY_NAME[FUNCTION_CALLS], [of_call(one) for one in messages], cuts, columns)
    assert found == expected(messages, lambda message: (message.session, message.call), call_row)


@thorough
@given(messages=st.lists(sessions, min_size=1, max_size=12), cuts=cuts)
def test_a_session_is_what_was_told_of_it_last(
    connection: psycopg.Connection, messages: list[Session], cuts: list[int]
) -> None:
    columns = f"session_id, user_id, model, mode, {epoch('started_at')}, {epoch('ended_at')}, meta"
    found = stored(connection, BY_NAME[SESSIONS], [of_session(one) for one in messages], cuts, columns)
    assert found == expected(messages, lambda message: message.session, session_row)


@thorough
@given(messages=st.lists(builds, min_size=1, max_size=12), cuts=cuts)
@example(messages=[Build("a", "s", None, "failed", BASE), Build("a", "s", None, "building", BASE + 1)], cuts=[1])
@example(messages=[Build("a", "s", None, "building", BASE + 1), Build("a", "s", None, "completed", BASE)], cuts=[])
def test_a_finished_build_stays_finished(
    connection: psycopg.Connection, messages: list[Build], cuts: list[int]
) -> None:
    columns = f"id, session_id, build_target, status, {epoch('created_at')}, {epoch('updated_at')}"
    found = stored(connection, BY_NAME[BUILD_JOBS], [of_build(one) for one in messages], cuts, columns)
    assert found == expected(messages, lambda message: message.job, build_row)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(
    ("name", "strategy", "to_row", "columns"),
    [
        (FUNCTION_CALLS, calls, of_call, "session_id, to_jsonb(stored) - 'id'"),
        (SESSIONS, sessions, of_session, "session_id, to_jsonb(stored) - 'id'"),
        (BUILD_JOBS, builds, of_build, "id, to_jsonb(stored)"),
    ],
    ids=[FUNCTION_CALLS, SESSIONS, BUILD_JOBS],
)
def test_the_order_of_arrival_does_not_count_where_event_times_differ(
    connection: psycopg.Connection,
    name: str,
    strategy: st.SearchStrategy[Any],
    to_row: Callable[[Any], Row],
    columns: str,
    data: st.DataObject,
) -> None:
    drawn = data.draw(st.lists(strategy, min_size=1, max_size=8))
    rows = [to_row(message._replace(ts=BASE + place)) for place, message in enumerate(drawn)]
    shuffled = data.draw(st.permutations(rows))
    in_order = stored(connection, BY_NAME[name], rows, [], columns)
    assert stored(connection, BY_NAME[name], shuffled, data.draw(cuts), columns) == in_order
