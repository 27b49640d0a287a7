"""What alert rules would have told of: the engine of live alerts, over what the tables hold.

The same alerts as live, but for three things that the tables do not tell: what came late is in its place from the
beginning; a call that failed and then did not never failed; and what is sampled (lags, queue depth) or only known when
it happens (delays of ingest) is not there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

import msgspec
import psycopg

from connectors.alerts import AlertStore, Transition
from connectors.link import open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.sql import read
from connectors.sums import TICK_US
from flows.alert_engine import Engine
from flows.alert_machine import State, Why
from flows.alert_rules import TICK_S, Rules
from flows.alert_signals import OPEN_FOR_S, SignalRow, signal_row
from flows.alert_windows import Group
from flows.alert_words import Watched
from flows.alerts import seed
from flows.fold import INGEST_DELAY

_CHUNK: Final = 20_000

Progress = Callable[[int, datetime], None]
"""Hears how many figures were looked at, and up to when."""


class Episode(msgspec.Struct):
    """An alert from beginning to end; `ends` None where it still fires at the end of the backtest."""

    rule: str
    fingerprint: str
    labels: dict[str, str]
    starts: datetime
    ends: datetime | None
    reason: str
    resolution: str = ""

    @property
    def seconds(self) -> float | None:
        """How long it was."""
        return None if self.ends is None else (self.ends - self.starts).total_seconds()


class Hold(msgspec.Struct):
    """Looks at a rule that led to nothing though the value was not well, for one reason."""

    rule: str
    why: str
    looks: int = 0
    groups: set[Group] = set()
    first: datetime | None = None
    last: datetime | None = None
    worst: float | None = None
    unit: str = ""


class Backtest(msgspec.Struct):
    """What came of it. `absent` are rules whose figures no table holds."""

    episodes: list[Episode]
    holds: list[Hold]
    absent: list[str]
    figures: int
    transitions: list[Transition]


def backtest(
    settings: Settings, rules: Rules, since: datetime, until: datetime, progress: Progress | None = None
) -> Backtest:
    """Run rules over what happened between two times (aware).

    Raises:
        ConnectionFailedError: PostgreSQL cannot be reached.
        SchemaError: the schema is not there.
    """
    try:
        with open_connection(settings, "slate-backtest") as connection, connection.transaction():
            return _backtest(connection, settings, rules, since, until, progress)
    except psycopg.Error as error:
        raise as_slate_error(error) from None


def replay(engine: Engine, rows: Iterable[SignalRow], until: int) -> Iterator[Transition]:
    """Run an engine over rows in the order of their ticks, up to a tick."""
    rows = iter(rows)
    while chunk := list(islice(rows, _CHUNK)):
        engine.add(chunk)
        yield from engine.advance(min(chunk[-1].tick, until))  # of the last tick more may come
    yield from engine.advance(until)


def _backtest(
    connection: psycopg.Connection[tuple[Any, ...]],
    settings: Settings,
    rules: Rules,
    since: datetime,
    until: datetime,
    progress: Progress | None,
) -> Backtest:
    holds: dict[tuple[str, str], Hold] = {}
    engine = Engine(rules, report=lambda *what: _hold(holds, since, *what))
    begin = _tick(since) - max(rules.longest_window_s, OPEN_FOR_S) // TICK_S  # windows are full when it counts
    engine.restore(begin, (), (), ())
    for budget in rules.budgets:
        seed(connection, AlertStore(settings, ""), engine, budget)
    counted = 0

    def rows() -> Iterator[SignalRow]:
        nonlocal counted
        with connection.cursor("slate_backtest") as cursor:
            cursor.itersize = _CHUNK
            cursor.execute(
                read("alerts/history.sql"),
                {
                    "since": datetime.fromtimestamp(begin * TICK_S, since.tzinfo),
                    "until": until,
                    "sessions": "session" in rules.dimensions_of_usage,
                },
            )
            for counted, row in enumerate(cursor, 1):
                found = signal_row(row)
                if progress is not None and counted % _CHUNK == 0:
                    progress(counted, datetime.fromtimestamp(found.tick * TICK_S, since.tzinfo))
                yield found

    transitions = list(replay(engine, rows(), _tick(until)))
    kept = [one for one in transitions if (one.ends or one.starts) >= _tick(since) * TICK_US]
    return Backtest(
        episodes=episodes(kept, since),
        holds=sorted(holds.values(), key=lambda hold: (hold.rule, -hold.looks)),
        absent=[rule.name for rule in rules.rules if rule.measure.sampled or INGEST_DELAY in rule.measure.parts],
        figures=counted,
        transitions=kept,
    )


def episodes(transitions: Sequence[Transition], since: datetime) -> list[Episode]:
    """Beginnings and ends put together, in the order in which they began."""
    found: dict[tuple[str, int], Episode] = {}
    for one in transitions:
        episode = found.get((one.fingerprint, one.starts))
        if episode is None:
            starts = datetime.fromtimestamp(one.starts / 1_000_000, since.tzinfo)
            episode = Episode(one.rule, one.fingerprint, one.labels, starts, None, one.reason)
            found[one.fingerprint, one.starts] = episode
        if one.ends is not None:
            episode.ends = datetime.fromtimestamp(one.ends / 1_000_000, since.tzinfo)
            episode.resolution = one.reason
    return sorted(found.values(), key=lambda episode: (episode.starts, episode.rule, episode.fingerprint))


def _hold(
    holds: dict[tuple[str, str], Hold], since: datetime, watched: Watched, group: Group, tick: int, state: State
) -> None:
    if state.why in (Why.FIRES, Why.OVER, Why.STILL, Why.NO_DATA) or tick < _tick(since):
        return
    hold = holds.get((watched.name, state.why))
    if hold is None:
        hold = holds[watched.name, state.why] = Hold(watched.name, state.why, unit=watched.unit)
    moment = datetime.fromtimestamp(tick * TICK_S, since.tzinfo)
    hold.looks += 1
    hold.groups.add(group)
    hold.first = hold.first or moment
    hold.last = moment
    if state.value is not None and (hold.worst is None or (state.value > hold.worst) == watched.condition.above):
        hold.worst = state.value


def _tick(moment: datetime) -> int:
    return int(moment.timestamp()) // TICK_S
