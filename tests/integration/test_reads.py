"""What people see equals what the tables say, and nobody sees what is another's."""

import math
from collections import defaultdict
from collections.abc import Awaitable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from connectors.reads import Reader
from connectors.settings import Settings
from realtime import queries
from realtime.queries import RefusedReadError
from realtime.query_rows import Figures, FunctionCall, Moment, Page, Session, SessionTotals, Usage, Window
from tests.support.read_data import START, Rows, Told, reading, simulate, walk
from tests.support.stack import Stack, connect

NOW = START + timedelta(minutes=25)
TODAY, TOMORROW = date(2026, 3, 1), date(2026, 3, 2)


@pytest.fixture(scope="module")
def simulated(stack: Stack) -> Iterator[Told]:
    with simulate(stack) as told:
        yield told


def test_a_session_comes_to_what_its_rows_come_to(simulated: Told) -> None:
    async def all_sessions(reader: Reader) -> None:
        stranger = uuid4()
        for row in simulated.sessions:
            sid, owner = row["session_id"], row["user_id"]
            found = await queries.session(reader, owner, sid)
            assert found is not None
            assert (found.user_id, found.model, found.mode) == (owner, row["model"], row["mode"])
            rows = {
                name: [one for one in getattr(simulated, name) if one["session_id"] == sid]
                for name in ("usage", "calls", "scripts", "previews", "builds")
            }
            assert found.cost == sum((one["cost_estimate"] for one in rows["usage"]), Decimal(0))
            assert found.tokens_prompt == sum(one["tokens_prompt"] for one in rows["usage"])
            assert found.tokens_completion == sum(one["tokens_completion"] for one in rows["usage"])
            assert found.errors == sum(one["status"] == "failed" for one in rows["calls"])
            counts = found.calls, found.scripts, found.previews, found.builds
            assert counts == tuple(len(rows[name]) for name in ("calls", "scripts", "previews", "builds"))
            assert await queries.session(reader, stranger, sid) is None
            if owner is not None:
                other = next(one for one in simulated.users() if one != owner)
                assert await queries.session(reader, other, sid) is None
        assert await queries.session(reader, None, "no such session") is None

    reading(simulated.settings, all_sessions)


def test_a_script_comes_with_its_content_to_its_owner_only(simulated: Told) -> None:
    async def look(reader: Reader) -> None:
        for row in simulated.scripts[:20]:
            owner = simulated.owner(row["session_id"])
            whole = await queries.script(reader, owner, row["id"])
            assert whole is not None
            assert whole.script_content == row["script_content"]
            assert whole.bytes == len(row["script_content"].encode())
            assert await queries.script(reader, uuid4(), row["id"]) is None
        for missing in (0, -1, 2**63 - 1, 2**63, 2**80):
            assert await queries.script(reader, None, missing) is None

    reading(simulated.settings, look)


@pytest.mark.parametrize("by", [[], ["day"], ["model"], ["user"], ["day", "model"], ["day", "model", "user"]])
def test_usage_is_the_sum_of_the_reports_to_the_last_digit(simulated: Told, by: list[Any]) -> None:
    for user in [None, *simulated.users()[:3]]:
        wanted: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, 0, Decimal(0)])
        for row in simulated.of(simulated.usage, user):
            key = (
                row["ts"].date() if "day" in by else None,
                row["model"] if "model" in by else None,
                simulated.owner(row["session_id"]) if "user" in by else None,
            )
            for place, column in enumerate(("tokens_prompt", "tokens_completion", "cost_estimate")):
                wanted[key][place] += row[column]
        found: list[Usage] = reading(simulated.settings, queries.usage, user, since=TODAY, until=TOMORROW, by=by)
        got = {(o.day, o.model, o.user_id): [o.tokens_prompt, o.tokens_completion, o.cost] for o in found}
        assert got == wanted
        assert len(got) == len(found)
        assert b'"cost":' + str(found[0].cost).encode() in queries.encode(found[0])


def test_error_rates_are_those_of_the_calls(simulated: Told) -> None:
    for user in [None, *simulated.users()[:3]]:
        wanted: dict[tuple[date, str], list[int]] = defaultdict(lambda: [0, 0])
        for row in simulated.of(simulated.calls, user):
            wanted[row["ts"].date(), row["name"]][row["status"] == "failed"] += 1
        found = reading(simulated.settings, queries.error_rates, user, since=TODAY, until=TOMORROW)
        assert {(one.day, one.name): [one.success_count, one.error_count] for one in found} == wanted
        for one in found:
            assert one.error_rate == round(Decimal(one.error_count) / (one.success_count + one.error_count), 3)


def quantile(values: list[int], share: float) -> float:
    return sorted(values)[math.ceil(share * (len(values) - 1))]


def test_figures_are_those_of_the_tables(simulated: Told) -> None:
    stream = simulated.settings.stream
    this_minute = NOW.replace(second=0)
    with connect(simulated.settings) as connection:
        (waiting,) = connection.execute("SELECT count(*) FROM slate.dead_letters").fetchone() or (0,)
    assert waiting > 0
    for user in [None, *simulated.users()[:3]]:
        found: Figures = reading(simulated.settings, queries.figures, user, now=NOW, stream=stream)
        used, calls = simulated.of(simulated.usage, user), simulated.of(simulated.calls, user)
        failed = sum(row["status"] == "failed" for row in calls)
        assert (found.tokens_prompt, found.tokens_completion, found.cost) == (
            sum(row["tokens_prompt"] for row in used),
            sum(row["tokens_completion"] for row in used),
            sum((row["cost_estimate"] for row in used), Decimal(0)),
        )
        assert (found.calls, found.errors) == (len(calls), failed)
        assert found.error_rate == (round(Decimal(failed) / len(calls), 6) if calls else None)
        recent = [row for row in calls if this_minute - timedelta(minutes=5) <= row["ts"] < this_minute]
        assert found.calls_per_minute == Decimal(len(recent)) / 5
        durations = [row["duration_ms"] for row in calls if row["duration_ms"] is not None]
        for share, value in ((0.5, found.p50_ms), (0.95, found.p95_ms), (0.99, found.p99_ms)):
            assert (value is None) == (not durations)
            if value is not None:
                below, above = sorted(durations)[math.floor(share * (len(durations) - 1))], quantile(durations, share)
                assert below * 0.99 - 1 <= value <= above * 1.01 + 1
        own = simulated.of(simulated.sessions, user)
        assert found.active_sessions == sum(bool(row["started_at"]) and not row["ended_at"] for row in own)
        assert found.dead_letters == (waiting if user is None else None)
        assert found.behind == 0
        assert found.stored_at is not None
    assert sum(len(simulated.of(simulated.calls, one)) for one in simulated.users()) > 100


def test_minutes_and_windows_are_those_of_the_calls(simulated: Told) -> None:
    minutes = reading(simulated.settings, queries.minutes, now=NOW, minutes=40)
    assert [one.start for one in minutes] == [NOW - timedelta(minutes=39 - back) for back in range(40)]
    by_minute: dict[datetime, Rows] = defaultdict(list)
    for row in simulated.calls:
        by_minute[row["ts"].replace(second=0, microsecond=0)].append(row)
    for one in minutes:
        rows = by_minute[one.start]
        assert (one.calls, one.errors) == (len(rows), sum(row["status"] == "failed" for row in rows))
    assert sum((one.cost for one in minutes), Decimal(0)) == sum(row["cost_estimate"] for row in simulated.usage)
    until = START + timedelta(minutes=30)
    found: list[Window] = reading(simulated.settings, queries.windows, signal="calls", since=START, until=until)
    counts = {(one.start, one.key, one.status): one.count for one in found if one.count}
    wanted: dict[tuple[Any, ...], int] = defaultdict(int)
    for row in simulated.calls:
        if row["ts"] >= START:
            wanted[row["ts"].replace(second=0, microsecond=0), row["name"], row["status"]] += 1
    assert counts == wanted
    with connect(simulated.settings) as connection:
        for one in found[:50]:
            key = one.start, one.key, one.status
            quantiles = connection.execute(
                "SELECT slate.quantile(bins, 0.5), slate.quantile(bins, 0.95), slate.quantile(bins, 0.99) "
                "FROM slate.windows WHERE seconds = 60 AND signal = 'calls' AND (start, key, status) = (%s, %s, %s)",
                key,
            ).fetchone()
            assert quantiles == (one.p50_ms, one.p95_ms, one.p99_ms)


def test_users_see_the_alerts_on_them_and_on_their_sessions(simulated: Told) -> None:
    first, second, third = simulated.users()[:3]
    for user, wanted in (
        (None, ["rule-1", "rule-2", "rule-0", "rule-3"]),
        (first, ["rule-1"]),
        (second, ["rule-2"]),
        (third, []),
    ):
        firing = reading(simulated.settings, queries.alerts, user)
        assert [one.rule for one in firing][:2] == wanted[:2]
        assert {one.rule for one in firing} == set(wanted)
        told_of = reading(simulated.settings, walk, queries.alert_history, user, limit=2)
        assert [one.rule for one in told_of] == sorted(wanted, reverse=True)


def test_dead_letters_are_listed_without_their_bodies(simulated: Told) -> None:
    letters = reading(simulated.settings, walk, queries.dead_letters, limit=7)
    counts = reading(simulated.settings, queries.dead_letter_counts)
    assert sum(one.waiting for one in counts) == len(letters)
    assert [one.id for one in letters] == sorted((one.id for one in letters), reverse=True)
    assert b"payload" not in queries.encode(letters)
    with connect(simulated.settings) as connection:
        connection.execute("UPDATE slate.dead_letters SET replayed_at = now() WHERE id = %s", (letters[0].id,))
        waiting = reading(simulated.settings, walk, queries.dead_letters, limit=7)
        everything = reading(simulated.settings, walk, queries.dead_letters, limit=7, waiting=False)
        connection.execute("UPDATE slate.dead_letters SET replayed_at = NULL")
    assert [one.id for one in waiting] == [one.id for one in letters][1:]
    assert [one.id for one in everything] == [one.id for one in letters]


def test_what_is_read_is_json_that_decodes_to_the_same(simulated: Told) -> None:
    async def look(reader: Reader) -> None:
        sid = simulated.sessions[0]["session_id"]
        for found, type_ in (
            (await queries.sessions(reader, None), Page[Session]),
            (await queries.session(reader, None, sid), SessionTotals),
            (await queries.timeline(reader, None, sid), Page[Moment]),
            (await queries.function_calls(reader, None), Page[FunctionCall]),
            (await queries.figures(reader, None, now=NOW, stream=simulated.settings.stream), Figures),
        ):
            encoded = queries.encode(found)
            assert msgspec.json.decode(encoded, type=type_) == found
            assert b"+00:00" not in encoded

    reading(simulated.settings, look)


def test_money_and_payloads_keep_all_their_digits(settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute("INSERT INTO spark_sessions (session_id, started_at) VALUES ('s', now())")
        connection.execute(
            "INSERT INTO spark_usage_daily VALUES ('2026-03-01', 's', 'm', 9007199254740993, 0, 12345678.000001)"
        )
        connection.execute(
            "INSERT INTO spark_usage (session_id, ts, model, cost_estimate) VALUES ('s', now(), 'm', 0.1)"
        )
        connection.execute(
            "INSERT INTO spark_previews (session_id, engine, ts, status, meta) "
            "VALUES ('s', 'unity', now(), 'ready', '{\"n\": 12345678901234567890.123456789}')"
        )
    (used,) = reading(settings, queries.usage, None, since=TODAY, until=TOMORROW)
    assert b'"tokensPrompt":9007199254740993' in queries.encode(used)
    assert b'"cost":12345678.000001' in queries.encode(used)
    whole = queries.encode(reading(settings, queries.timeline, None, "s"))
    assert b"12345678901234567890.123456789" in whole
    assert b'"cost": 0.100000' in whole


def test_what_makes_no_sense_is_refused_with_what_would(simulated: Told) -> None:
    async def look(reader: Reader) -> None:
        asked: list[Awaitable[object]] = [
            queries.sessions(reader, None, limit=0),
            queries.sessions(reader, None, limit=501),
            queries.session(reader, None, "a\0b"),
            queries.session(reader, None, "a\ud800"),
            queries.usage(reader, None, since=TOMORROW, until=TODAY),
            queries.usage(reader, None, since=date(2020, 1, 1), until=TODAY),
            queries.windows(reader, signal="calls", since=NOW, until=NOW),
            queries.windows(reader, signal="calls", since=START, until=START + timedelta(days=1)),
            queries.windows(reader, signal="calls", since=datetime(2026, 3, 1), until=NOW),
            queries.minutes(reader, now=NOW, minutes=501),
        ]
        for one in asked:
            with pytest.raises(RefusedReadError):
                await one

    reading(simulated.settings, look)
