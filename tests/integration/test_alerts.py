"""Alerts on a real database: decided once whoever is killed, whenever; states, budgets and rules live on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.history import History
from connectors.link import Connection, open_connection
from connectors.rollups import RollupWriter
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sums import TICK_US, Counted, Sums, Window
from flows.alert_engine import Engine
from flows.alert_signals import SignalRow
from flows.alerts import Evaluator, LiveRules
from flows.fold import fold_up
from tests.support.alerts import HOUR, call, told, usage
from tests.support.rollups import CREATED, USAGE_LABELS
from tests.support.stack import Stack, connect
from tests.support.waiting import eventually

BASE = 800_000_000 - 800_000_000 % HOUR + HOUR - 20
RULES = """
[[rules]]
name = "critical"
signal = "call_error_rate"
group_by = ["function"]
window = "20s"
above = 0.5
for = "2s"
cooldown = "10s"
severity = "critical"
[[rules]]
name = "warning"
signal = "call_error_rate"
group_by = ["function"]
window = "20s"
above = 0.1
clear_after = "4s"
inhibited_by = "critical"
[[budgets]]
name = "tokens"
tokens = 100
per = "user"
period = "hour"
[[receivers]]
name = "w"
type = "webhook"
env = "SLATE_ALERT_WEBHOOK_URL"
"""
OUTBOX = """
    SELECT (extract(epoch FROM coalesce(ends_at, starts_at)) / 2)::bigint, rule, state, labels, reason
    FROM slate.alerts ORDER BY id
"""


class Stream:
    """One partition whose figures are counted as the rollups do, up to ticks of event time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.position = 0
        self.writer = RollupWriter(settings, Shutdown(), lambda sums: fold_up(sums, USAGE_LABELS), History())
        with connect(settings) as connection:
            connection.execute(
                "TRUNCATE slate.progress, slate.rollup_progress, slate.alert_signals, slate.alert_progress,"
                " slate.alert_states, slate.alert_budgets, slate.alerts, slate.alert_deliveries, slate.windows,"
                " spark_usage, slate.alert_silences CASCADE"
            )
            for partition in (-1, *range(settings.partitions)):
                connection.execute(
                    "INSERT INTO slate.rollup_progress (stream, partition, created, idle, drained_at)"
                    " VALUES (%s, %s, %s, %s, now() + interval '1 day')",
                    (settings.stream, partition, CREATED, partition != 0),
                )

    def count(self, rows: Sequence[SignalRow], reached: int) -> None:
        """Count figures in one transaction; event time is then past a tick, and what comes late may still come."""
        sums = Sums()
        for row in rows:
            place = (row.tick, row.signal, row.key, row.detail, row.session_id)
            window = sums.signals.setdefault(place, Window())
            window.add(Window(row.count, row.tokens, 0, row.cost, dict(row.bins)))
        now = reached * TICK_US + 1_000_000
        after, self.position = self.position, self.position + 1
        moved = Counted(self.settings.stream, 0, after, self.position, 1, now, now, None, [], sums)
        self.writer.write([moved])

    def close(self) -> None:
        self.writer.close()


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[Settings]:
    with stack.provide(partitions=2) as found:
        yield found


@pytest.fixture
def stream(database: Settings) -> Iterator[Stream]:
    found = Stream(database)
    yield found
    found.close()


@pytest.fixture
def connection(database: Settings) -> Iterator[Connection]:
    with open_connection(database, "test") as found:
        yield found


@pytest.fixture(scope="module")
def watched(database: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("rules") / "rules.toml"
    path.write_text(RULES)
    return database.model_copy(update={"alert_rules": path})


def with_rules(settings: Settings, path: Path, text: str) -> Settings:
    path.write_text(text)
    return settings.model_copy(update={"alert_rules": path})


def evaluator(settings: Settings, clock: Callable[[], float] = lambda: 1_600_000_000.0) -> Evaluator:
    return Evaluator(settings, LiveRules(settings), clock)


def free_lease(connection: Connection) -> None:
    """A worker that is killed keeps its lease for five seconds."""
    connection.execute("UPDATE slate.alert_progress SET lease_until = '-infinity'")


def outbox(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(OUTBOX.encode()).fetchall()


class KilledError(Exception):
    """The worker dies here."""


def look(who: Evaluator, connection: Connection, die_after: int | None) -> None:
    """Evaluate, or die in front of a statement of the transaction, or when it is committed and nobody was told."""
    if die_after is None:
        assert who.look(connection)
        return
    left = die_after
    execute = connection.execute

    def dying(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return execute(*arguments, **more)

    connection.execute = dying  # type: ignore[method-assign]
    try:
        who.look(connection)
    except KilledError:
        pass
    finally:
        connection.execute = execute  # type: ignore[method-assign]


rows = st.lists(
    st.builds(call, st.integers(BASE, BASE + 30), st.sampled_from("fg"), failed=st.booleans())
    | st.builds(usage, st.integers(BASE, BASE + 30), st.sampled_from("uv"), st.sampled_from([20, 50, 100])),
    min_size=1,
    max_size=40,
)
looks = st.lists(
    st.tuples(st.integers(BASE - 1, BASE + 60), st.none() | st.integers(0, 14), st.integers(1, 3)), max_size=8
)
END = BASE + 80


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(those=rows, plan=looks)
def test_alerts_are_decided_once_and_the_same_wherever_a_worker_is_killed(
    watched: Settings, those: list[SignalRow], plan: list[tuple[int, int | None, int]]
) -> None:
    whole = Engine(LiveRules(watched).current)
    whole.add(those)
    expected = [(*one, reason) for one, reason in _with_reasons(whole)]
    stream = Stream(watched)
    with open_connection(watched, "test") as connection:
        left = sorted(those, key=lambda row: row.tick)
        who = evaluator(watched)
        now = BASE - 5
        for tick, die_after, parts in [*sorted(plan, key=lambda one: one[0]), (END, None, 1)]:
            now = max(now, tick)
            here = [row for row in left if row.tick < now]
            left = left[len(here) :]
            for part in range(parts):  # as many transactions; event time moves with the last
                stream.count(here[part::parts], now if part == parts - 1 else BASE - 5)
            look(who, connection, die_after)
            if die_after is not None:
                free_lease(connection)
                who = evaluator(watched)
        assert outbox(connection) == expected
    stream.close()


def _with_reasons(engine: Engine) -> list[tuple[tuple[int, str, str, dict[str, str]], str]]:
    found = engine.advance(END)
    return list(zip(told(found), [one.reason for one in found], strict=True))


def test_two_workers_take_turns_and_the_second_takes_over_when_the_first_is_dead(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    first, second = evaluator(watched), evaluator(watched)
    stream.count([call(BASE, "f", failed=True)], BASE + 1)
    assert first.look(connection)
    assert not second.look(connection)
    stream.count([], BASE + 3)
    connection.execute("UPDATE slate.alert_progress SET lease_until = now() - interval '1 second'")
    assert second.look(connection)
    assert not first.look(connection)
    stream.count([], BASE + 40)
    assert second.look(connection)
    assert [one[1:3] for one in outbox(connection)] == [
        ("warning", "firing"),
        ("critical", "firing"),
        ("critical", "resolved"),
        ("warning", "resolved"),
    ]


def test_workers_that_look_at_the_same_moment_decide_once(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    for tick in range(BASE, BASE + 20):
        stream.count([call(tick, f"f{tick % 3}", failed=tick % 5 < 3)], tick + 1)
    barrier = threading.Barrier(4)
    outcomes: list[object] = []

    def work() -> None:
        with open_connection(watched, "test") as own:
            who = evaluator(watched)
            barrier.wait()
            try:
                outcomes.append(who.look(own))
            except psycopg.errors.SerializationFailure:
                outcomes.append("too late")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 1
    engine = Engine(LiveRules(watched).current)
    engine.add([call(tick, f"f{tick % 3}", failed=tick % 5 < 3) for tick in range(BASE, BASE + 20)])
    assert [one[:4] for one in outbox(connection)] == told(engine.advance(BASE + 20))


def test_a_changed_file_is_in_force_at_the_next_look_and_ends_what_no_rule_tells_any_more(
    stream: Stream, database: Settings, connection: Connection, tmp_path: Path
) -> None:
    settings = with_rules(database, tmp_path / "rules.toml", RULES)
    who = evaluator(settings)
    stream.count([call(BASE, "f", failed=True)], BASE + 3)
    who.look(connection)
    assert [one[1:3] for one in outbox(connection)] == [("warning", "firing"), ("critical", "firing")]
    with_rules(database, tmp_path / "rules.toml", RULES.replace('name = "warning"', 'name = "notice"'))
    stream.count([], BASE + 4)
    who.look(connection)
    assert [one[1:3] for one in outbox(connection)][2:] == [("warning", "resolved")]
    assert outbox(connection)[2][4] == "the rule is gone, or is another one now"


def test_a_budget_counts_what_was_spent_before_it_was_there(
    stream: Stream, database: Settings, connection: Connection, tmp_path: Path
) -> None:
    user = "4f1d2b3c-0000-4000-8000-000000000001"
    connection.execute(
        "INSERT INTO spark_usage (session_id, ts, model, tokens_prompt, user_id)"
        " SELECT 's', to_timestamp(%s), 'm', tokens, %s"
        " FROM (VALUES (40)) AS t (tokens)",
        ((BASE - 50) * 2, user),
    )
    who = evaluator(with_rules(database, tmp_path / "rules.toml", RULES))
    stream.count([usage(BASE, user, 20)], BASE + 2)
    who.look(connection)
    (one,) = outbox(connection)
    assert one[3]["level"] == "50"
    assert one[4] == "60 tokens of 100 tokens are spent this hour (60.0 %)"


def test_a_budget_that_counts_something_else_since_knows_nothing_of_before(
    stream: Stream, database: Settings, connection: Connection, tmp_path: Path
) -> None:
    who = evaluator(with_rules(database, tmp_path / "rules.toml", RULES))
    stream.count([usage(BASE, "u", 40)], BASE + 2)
    who.look(connection)
    with_rules(database, tmp_path / "rules.toml", RULES.replace('per = "user"', 'per = "model"'))
    stream.count([usage(BASE + 2, "v", 30)], BASE + 4)
    who.look(connection)
    spent = "SELECT key, spent FROM slate.alert_budgets"
    assert connection.execute(spent).fetchall() == [('["m"]', 30)]
    free_lease(connection)
    again = evaluator(with_rules(database, tmp_path / "rules.toml", RULES.replace('per = "user"', 'per = "model"')))
    stream.count([usage(BASE + 4, "v", 30)], BASE + 6)
    again.look(connection)
    assert connection.execute(spent).fetchall() == [('["m"]', 60)]
    assert [one[3] for one in outbox(connection)] == [
        {"alertname": "tokens", "severity": "info", "level": "50", "model": "m"}
    ]


def test_what_was_spent_in_periods_that_are_over_is_forgotten(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    who = evaluator(watched)
    stream.count([usage(BASE, "u", 40)], BASE + 2)
    who.look(connection)
    who._pruned = float("-inf")
    later = BASE + 40 * 24 * HOUR
    stream.count([usage(later, "v", 40)], later + 2)
    who.look(connection)
    who._pruned = float("-inf")
    stream.count([], later + 4)
    who.look(connection)
    assert connection.execute("SELECT key FROM slate.alert_budgets").fetchall() == [('["v"]',)]


def test_a_look_at_which_nothing_is_due_writes_nothing(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    who = evaluator(watched)
    stream.count([call(BASE, "f")], BASE + 2)
    assert who.look(connection)
    moved = "SELECT xmin FROM slate.alert_progress"
    before = connection.execute(moved).fetchone()
    assert who.look(connection)
    assert connection.execute(moved).fetchone() == before
    stream.count([], BASE + 3)
    assert who.look(connection)
    assert connection.execute(moved).fetchone() != before


def test_ten_thousand_groups_are_decided_in_few_statements_and_told_as_often_as_the_limit_says(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    who = evaluator(watched)
    stream.count([call(BASE, f"f{number}", failed=True) for number in range(10_000)], BASE + 3)
    statements = 0
    execute = connection.execute

    def counting(*arguments: Any, **more: Any) -> Any:
        nonlocal statements
        statements += 1
        return execute(*arguments, **more)

    connection.execute = counting  # type: ignore[method-assign]
    who.look(connection)
    connection.execute = execute  # type: ignore[method-assign]
    assert statements <= 15
    firing = [one for one in outbox(connection) if one[2] == "firing"]
    assert len(firing) == 2 * 51
    assert sum("overflow" in one[3] for one in firing) == 2
    states = connection.execute("SELECT status, count(*) FROM slate.alert_states GROUP BY 1 ORDER BY 1").fetchall()
    assert states == [("firing", 2 * 51), ("suppressed", 2 * 9950)]
    stream.count([], BASE + 40)
    who.look(connection)
    assert sum(one[2] == "resolved" for one in outbox(connection)) == 2 * 51


def test_alerts_wait_in_the_queues_of_those_receivers_that_are_set(
    stream: Stream, watched: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = "SELECT count(*) FROM slate.alert_deliveries WHERE receiver = 'w'"
    stream.count([call(BASE, "f", failed=True)], BASE + 1)
    evaluator(watched).look(connection)
    assert connection.execute(queued).fetchone() == (0,)
    free_lease(connection)
    monkeypatch.setenv("SLATE_ALERT_WEBHOOK_URL", "https://example.com/")
    stream.count([], BASE + 3)
    evaluator(watched).look(connection)
    assert connection.execute(queued).fetchone() == (1,)


def test_samples_are_looked_at_by_the_clock_while_event_time_stands_still(
    stream: Stream, database: Settings, connection: Connection, tmp_path: Path
) -> None:
    text = '[[rules]]\nname = "lag"\nsignal = "ingest_lag"\nwindow = "20s"\nabove = 30\nno_data = "keep"\n'
    settings = with_rules(database, tmp_path / "rules.toml", text)
    clock = 1_700_000_000.0
    who = evaluator(settings, lambda: clock)
    store = who._store
    for seconds in (0, 10, 20):
        store.sample(connection, int(clock + seconds) // 2, {"ingest_lag": 45_000_000, "queue_depth": 5})
        clock += seconds + 5
        who.look(connection)
    (one,) = outbox(connection)
    assert one[1:3] == ("lag", "firing")
    assert one[4] == "45.0 s is above 30.0 s (1 sample in 20s)"
    clock += 600
    who.look(connection)
    assert len(outbox(connection)) == 1, "what is not known goes on as it was"
    free_lease(connection)
    again = evaluator(settings, lambda: clock)
    store.sample(connection, int(clock) // 2, {"ingest_lag": 0})
    clock += 5
    again.look(connection)
    assert outbox(connection)[-1][1:3] == ("lag", "resolved")


@contextmanager
def time_of(connection: Connection, stream: str) -> Iterator[Callable[[], object]]:
    def now() -> object:
        row = connection.execute("SELECT slate.alert_time(%s, '{0,1}')", (stream,)).fetchone()
        return row[0] if row else None

    connection.execute("SET timezone TO 'UTC'")
    yield now


def test_event_time_goes_on_while_nothing_comes_and_waits_for_partitions_that_lag(
    database: Settings, connection: Connection
) -> None:
    def partition(number: int, watermark: str | None, moved: str | None, drained: str | None) -> None:
        connection.execute(
            "INSERT INTO slate.rollup_progress (stream, partition, created, idle, watermark, moved_at, drained_at)"
            " VALUES ('T', %s, now(), %s, %s, %s, %s)"
            " ON CONFLICT (stream, partition) DO UPDATE SET idle = excluded.idle, watermark = excluded.watermark,"
            " moved_at = excluded.moved_at, drained_at = excluded.drained_at",
            (number, drained is not None, watermark, moved, drained),
        )

    with time_of(connection, "T") as now:
        partition(0, "2026-03-01 12:00:00Z", "2026-03-01 12:00:01Z", "2026-03-01 12:00:01Z")
        assert now() is None, "nobody knows of the other"
        partition(1, None, None, None)
        assert now() is None, "it has not begun"
        partition(1, None, None, "2026-03-01 12:00:05Z")
        assert str(now()) == "2026-03-01 12:00:00+00:00"
        partition(0, "2026-03-01 12:00:00Z", "2026-03-01 12:00:01Z", "2026-03-01 12:00:09Z")
        assert str(now()) == "2026-03-01 12:00:04+00:00", "a second behind the clock, as events are"
        partition(1, "2026-03-01 11:00:00Z", "2026-03-01 12:00:10Z", None)
        assert str(now()) == "2026-03-01 11:00:00+00:00", "it has more to read"
        partition(0, "2020-01-01 00:00:00Z", "2026-03-01 12:00:01Z", "2026-03-01 12:00:31Z")
        partition(1, None, None, "2026-03-01 12:00:31Z")
        assert str(now()) == "2020-01-01 00:00:30+00:00", "a replay stays in its own time"


def test_figures_that_count_in_no_window_any_more_are_forgotten(
    stream: Stream, watched: Settings, connection: Connection
) -> None:
    who = evaluator(watched)
    stream.count([call(BASE, "f")], BASE + 1)
    who.look(connection)
    who._pruned = float("-inf")
    stream.count([call(BASE + 2 * HOUR, "f")], BASE + 2 * HOUR + 1)
    who.look(connection)
    who._pruned = float("-inf")
    stream.count([], BASE + 2 * HOUR + 2)
    who.look(connection)
    eventually(lambda: connection.execute("SELECT count(*) FROM slate.alert_signals").fetchone() == (1,))
