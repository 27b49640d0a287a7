"""Rules for tests, rows that they look at, and a plain model of what they must decide."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from connectors.alerts import Transition
from flows.alert_engine import Engine
from flows.alert_machine import State
from flows.alert_rules import Rules, parse
from flows.alert_signals import SignalRow
from flows.alert_windows import Group
from flows.fold import quantile

HOUR = 1800
"""Ticks."""


def rules(text: str) -> Rules:
    """Rules from the text of a file."""
    return parse(text, "rules.toml")


def call(tick: int, function: str, *, failed: bool = False, ms: int | None = None, count: int = 1) -> SignalRow:
    """Calls of a tick."""
    bins = {} if ms is None else {ms: count}
    return SignalRow(tick, "calls", function, "failed" if failed else "success", "", count, 0, 0, bins)


def usage(tick: int, user: str, tokens: int, *, session: str = "", cost: int = 0) -> SignalRow:
    """Usage of a tick."""
    return SignalRow(tick, "usage", "m", user, session, 1, tokens, cost, {})


def event(tick: int, type_: str, *, session: str = "", count: int = 1) -> SignalRow:
    """Events of a tick."""
    return SignalRow(tick, "events", type_, "", session, count, 0, 0, {})


def told(transitions: Iterable[Transition]) -> list[tuple[int, str, str, dict[str, str]]]:
    """What was decided, without words: when (ticks), the rule, the state, the labels."""
    return [
        ((one.starts if one.ends is None else one.ends) // 2_000_000, one.rule, one.state, one.labels)
        for one in transitions
    ]


class Memory:
    """What a worker would have committed: enough to go on after it was killed."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.engine = Engine(rules)
        self.rows: list[SignalRow] = []
        self.states: dict[tuple[int, Group], State] = {}
        self.spent: dict[tuple[str, Group], tuple[int, int]] = {}
        self.transitions: list[Transition] = []

    def look(self, rows: Sequence[SignalRow], until: int) -> None:
        """Take rows, go on to a tick, and commit."""
        self.engine.add(rows)
        self.transitions += self.engine.advance(until)
        self.rows += rows
        changed = self.engine.changed()
        for key, state in changed.states.items():
            if state is None:
                self.states.pop(key, None)
            else:
                self.states[key] = msgspec.json.decode(msgspec.json.encode(state), type=State)
        self.spent |= changed.spent

    def crash(self) -> None:
        """Forget what is not committed, and go on with what is."""
        now = self.engine.now
        self.engine = Engine(self.rules)
        if now is None:
            self.engine.add(self.rows)
            return
        states = [(rule, group, msgspec.structs.replace(state)) for (rule, group), state in self.states.items()]
        spent = [(name, group, period, amount) for (name, group), (period, amount) in self.spent.items()]
        self.engine.restore(now, self.rows, states, spent)


Value = Callable[[Sequence[SignalRow]], tuple[float | None, int]]


def error_rate(rows: Sequence[SignalRow]) -> tuple[float | None, int]:
    """The share of calls that failed, and of how many."""
    count = sum(row.count for row in rows)
    failed = sum(row.count for row in rows if row.detail == "failed")
    return (failed / count, count) if count > 0 else (None, 0)


def p95(rows: Sequence[SignalRow]) -> tuple[float | None, int]:
    """The 95th percentile of durations, and of how many."""
    bins: dict[int, int] = defaultdict(int)
    for row in rows:
        for place, count in row.bins.items():
            bins[place] += count
    count = sum(bins.values())
    return (quantile(bins, 0.95), count) if count > 0 else (None, 0)


def expected(rule: Any, value: Value, rows: Sequence[SignalRow], ticks: range) -> list[tuple[int, str]]:
    """What a rule must decide about one group, looking at every tick from the rows alone: when, and what."""
    window, hold = rule.window // 2, rule.for_ // 2
    clear = rule.threshold if rule.clear is None else rule.clear
    firing, bad_since, good_since, cold_until = False, None, None, ticks.start
    decided: list[tuple[int, str]] = []
    for tick in ticks:
        found, samples = value([row for row in rows if tick - window <= row.tick < tick])
        if found is None:
            how = {"fire": "bad", "keep": "unknown", "resolve": "over"}[rule.no_data]
        elif samples < rule.min_samples:
            how = "unknown"
        elif found > rule.threshold:
            how = "bad"
        else:
            how = "good" if found <= clear else "between"
        if firing:
            good_since = None if how not in ("good",) else tick if good_since is None else good_since
            if how == "over" or (good_since is not None and tick - good_since >= rule.clear_after // 2):
                decided.append((tick, "resolved"))
                firing, bad_since, good_since, cold_until = False, None, None, tick + rule.cooldown // 2
            continue
        bad_since = None if how != "bad" else tick if bad_since is None else bad_since
        if bad_since is not None and tick - bad_since >= hold and tick >= cold_until:
            decided.append((tick, "firing"))
            firing, good_since = True, None
    return decided


__all__ = ["HOUR", "Memory", "call", "error_rate", "event", "expected", "p95", "rules", "told", "usage"]
