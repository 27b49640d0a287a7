"""Rules over figures of event time: which alerts begin and end, and why. Pure.

Time is a row of ticks. At a tick a rule sees the figures of the ticks before it, as many as its window is long; a tick
at which nothing enters or leaves a window and nobody waits is passed over. So the outcome depends on the rows alone:
not on how they were cut into batches, and not on the clock.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from connectors.alerts import Transition
from flows.alert_machine import ON, State, Why, fire, step
from flows.alert_rules import TICK_S, Budget, Rules
from flows.alert_signals import OPEN_FOR_S, Measure, Part, SignalRow
from flows.alert_windows import MOST_GROUPS, Figures, Group, Series, period_of
from flows.alert_words import OVERFLOW, Watched, fingerprint, reason, share_spent, transition
from flows.fold import EVENTS, SESSION_EVENTS

_OPEN_TICKS: Final = OPEN_FOR_S // TICK_S

_Taker = tuple[int, Callable[[SignalRow], Part | None], Callable[[SignalRow], Group | None] | None, bool]
"""A series that takes rows of a signal: what of a row it adds, to which group (None: there is one), and whether it is
about durations."""


class _Tick(msgspec.Struct):
    """What happens at a tick: changes of windows by series and group, groups whose period is over, sessions that open
    (since a tick), close (None) or are forgotten (if they were to be then), and who wants to look again."""

    changes: dict[tuple[int, Group], Figures] = {}
    over: list[tuple[int, Group]] = []
    opened: list[tuple[int, str, int | None]] = []
    forgotten: list[tuple[int, str]] = []
    wakes: set[tuple[int, Group]] = set()


class Changed(msgspec.Struct):
    """What must be remembered, since it was asked for last: states (None: to be forgotten) by rule and group, and what
    was spent in the current period by budget and group."""

    states: dict[tuple[int, Group], State | None] = {}
    spent: dict[tuple[str, Group], tuple[int, int]] = {}
    """The tick at which the period began, and what was spent."""


Report = Callable[[Watched, Group, int, State], None]
"""Hears of every look at a group that is not simply well: rule, group, tick, state after it."""


class Engine:
    """All rules of one clock.

    Args:
        rules: what to watch.
        sampled: whether those on samples, which the clock times, or those on events.
        report: hears of what is decided and of what is not.
    """

    def __init__(self, rules: Rules, *, sampled: bool = False, report: Report | None = None) -> None:
        self.now: int | None = None
        """The tick that was looked at last; None before the first row."""
        self.watched: list[Watched] = []
        self.late = 0
        """Figures that came after the window that they belong to."""
        self.untracked = 0
        """Figures of groups beyond `MOST_GROUPS`."""
        self.budgets: list[Budget] = [] if sampled else list(rules.budgets)
        self._series: list[Series] = []
        self._takers: dict[str, list[_Taker]] = defaultdict(list)
        self._silences: list[int] = []
        self._states: list[dict[Group, State]] = []
        self._told: list[int] = []
        self._suppressed: list[int] = []
        self._inhibits: dict[int, list[int]] = defaultdict(list)
        self._agenda: dict[int, _Tick] = {}
        self._ticks: list[int] = []
        self._changed = Changed()
        self._report = report
        self._compile(rules, sampled)

    def add(self, rows: Iterable[SignalRow]) -> None:
        """Take rows, of any ticks in any order; they are looked at when time comes past them."""
        self._take(rows, restored=False)

    def advance(self, until: int) -> list[Transition]:
        """Look at every tick up to one, at which all rows of earlier ticks have come."""
        found: list[Transition] = []
        if self.start() is None:
            return found
        assert self.now is not None  # noqa: S101 - it has begun
        while self._ticks and self._ticks[0] <= until:
            tick = heapq.heappop(self._ticks)
            self._look(tick, found)
            self.now = tick
        self.now = max(self.now, until)
        return found

    def changed(self) -> Changed:
        """What has changed since this was asked last."""
        changed, self._changed = self._changed, Changed()
        return changed

    def restore(
        self,
        now: int,
        rows: Iterable[SignalRow],
        states: Iterable[tuple[int, Group, State]],
        spent: Iterable[tuple[str, Group, int, int]],
    ) -> None:
        """Go on where another left off at a tick, with the rows that it had taken and what was to be remembered."""
        self.now = now
        self._await_data(now)
        budgets = {series.budget: (index, series) for index, series in enumerate(self._series) if series.budget}
        for budget, group, period_start, amount in spent:
            if budget in budgets and period_of(now - 1, budgets[budget][1].period)[0] == period_start:
                index, series = budgets[budget]
                series.groups[group] = Figures(amount)
                self._at(series.leaves(period_start)).over.append((index, group))
        self._take(rows, restored=True)
        for rule, group, state in states:
            self._states[rule][group] = state
            self._told[rule] += state.status == "firing" and group != OVERFLOW
            self._suppressed[rule] += state.status == "suppressed"
            if group != OVERFLOW:
                self._at(now + 1).wakes.add((rule, group))  # it may have waited for something

    def start(self) -> int | None:
        """Where to begin: before the first row that there is; None while there is none."""
        if self.now is None and self._ticks:
            self.now = self._ticks[0] - 1
            self._await_data(self.now)
        return self.now

    def seed(self, budget: str, rows: Iterable[SignalRow]) -> None:
        """Say what was spent in the current period up to now, of a budget that is new."""
        assert self.now is not None  # noqa: S101 - there is no current period before it has begun
        index, series = next((i, one) for i, one in enumerate(self._series) if one.budget == budget)
        series.groups.clear()
        for row in rows:
            part, group = series.measure.parts[row.signal](row), series.group(row)
            if part is not None and group is not None:
                self._spend(index, series, group, part[0], self.now)
                self._touch_at(self.now + 1, index, group)

    def firing(self, severity: str) -> int:
        """How many alerts of a severity fire."""
        return sum(
            told
            for told, watched in zip(self._told, self.watched, strict=True)
            if watched.labels["severity"] == severity
        )

    def rule_of(self, name: str, fingerprint_of: str, group: Group | None) -> int | None:
        """Which rule has this name and gives an alert of this group this fingerprint; None where none does."""
        for index, watched in enumerate(self.watched):
            here = OVERFLOW if group is None else group
            if watched.name != name or (here != OVERFLOW and len(here) != len(watched.group_by)):
                continue
            if fingerprint(watched.labels_of(here)) == fingerprint_of:
                return index
        return None

    def _compile(self, rules: Rules, sampled: bool) -> None:
        places: dict[str, int] = {}
        shared: dict[str, int] = {}
        for rule in rules.rules:
            if rule.measure.sampled != sampled:
                continue
            key = msgspec.json.encode([rule.signal, rule.where, rule.group_by, rule.window]).decode()
            if key not in shared:
                shared[key] = self._new_series(rule.measure, rule.where, rule.group_by)
                self._series[-1].window = rule.window // TICK_S
            places[rule.name] = len(self.watched)
            self._watch(Watched.rule(rule, shared[key], places.get(rule.inhibited_by or "")))
        for budget in self.budgets:
            series = self._new_series(budget.measure, budget.where, budget.dimensions)
            self._series[-1].period = budget.period
            self._series[-1].budget = budget.name
            for level, severity in budget.levels:
                self._watch(Watched.level(budget, level, severity, series))

    def _new_series(self, measure: Measure, where: Mapping[str, list[str]], group_by: Sequence[str]) -> int:
        series = Series(measure, where, group_by)
        self._series.append(series)
        index = len(self._series) - 1
        for signal, part in measure.parts.items():
            taker = (index, part, series.group if group_by or where else None, measure.quantile is not None)
            self._takers[signal].append(taker)
        if measure.silence:
            self._silences.append(index)
        return index

    def _watch(self, watched: Watched) -> None:
        index = len(self.watched)
        self.watched.append(watched)
        self._series[watched.series].rules.append(index)
        self._states.append({})
        self._told.append(0)
        self._suppressed.append(0)
        if watched.inhibited_by is not None:
            self._inhibits[watched.inhibited_by].append(index)

    def _await_data(self, now: int) -> None:
        """Look at rules that fire without data once their window is over, though nothing has come."""
        for rule, watched in enumerate(self.watched):
            if watched.condition.no_data == "fire":
                self._at(now + 1 + self._series[watched.series].window).wakes.add((rule, ()))

    def _take(self, rows: Iterable[SignalRow], *, restored: bool) -> None:
        """Add rows up by series, tick and group, and schedule what comes of it."""
        taken: dict[tuple[int, int, Group], Figures] = {}
        if restored and self._silences:
            rows = sorted(rows, key=lambda row: (row.tick, row.key))  # sessions that open do so before they close
        for row in rows:
            tick, signal = row.tick, row.signal
            if signal == EVENTS and row.key in SESSION_EVENTS:
                self._session(row, restored=restored)
            for index, part_of, group_of, by_bins in self._takers.get(signal, ()):
                part = part_of(row)
                if part is None:
                    continue
                group = () if group_of is None else group_of(row)
                if group is None:
                    continue
                place = (index, tick, group)
                figures = taken.get(place)
                if figures is None:
                    figures = taken[place] = Figures()
                if by_bins:
                    figures.add(0, sum(row.bins.values()), row.bins)
                else:
                    figures.total += part[0]
                    figures.samples += part[1]
        for (index, tick, group), figures in taken.items():
            self._schedule(index, tick, group, figures, restored=restored)

    def _schedule(self, index: int, tick: int, group: Group, figures: Figures, *, restored: bool) -> None:
        """Let figures of a tick enter their window, and leave it."""
        series, now = self._series[index], self.now
        at, leaves = tick + 1, series.leaves(tick)
        if now is not None and at <= now:
            at = now + 1
            if restored:
                if leaves >= at and not series.period:
                    series.figures(group).add(figures.total, figures.samples, figures.bins)
                    self._change(leaves, (index, group), figures, -1)
                return
            if leaves <= at:
                self.late += 1
                return
            if series.period:
                self._spend(index, series, group, figures.total, tick)
                self._touch_at(at, index, group)
                return
        self._change(at, (index, group), figures, 1)
        if not series.period:
            self._change(leaves, (index, group), figures, -1)

    def _session(self, row: SignalRow, *, restored: bool) -> None:
        """Remember who is connected."""
        at, opened = row.tick + 1, row.tick if row.key == "connected" else None
        for index in self._silences:
            if self.now is None or at > self.now:
                self._at(at).opened.append((index, row.session_id, opened))
            elif restored:
                self._open_or_close(index, row.session_id, opened)
            else:
                self._at(self.now + 1).opened.append((index, row.session_id, opened))

    def _open_or_close(self, index: int, session: str, opened: int | None) -> None:
        series = self._series[index]
        if opened is None:
            series.open.pop(session, None)
        else:
            leaves = opened + 1 + _OPEN_TICKS
            if self.now is None or leaves > self.now:
                series.open[session] = leaves
                self._at(leaves).forgotten.append((index, session))
        series.figures(()).samples = len(series.open)

    def _at(self, tick: int) -> _Tick:
        found = self._agenda.get(tick)
        if found is None:
            found = self._agenda[tick] = _Tick()
            heapq.heappush(self._ticks, tick)
        return found

    def _change(self, tick: int, key: tuple[int, Group], change: Figures, by: int) -> None:
        changes = self._at(tick).changes
        figures = changes.get(key)
        if figures is None:
            figures = changes[key] = Figures()
        figures.add(change.total, change.samples, change.bins, by)

    def _touch_at(self, tick: int, index: int, group: Group) -> None:
        self._at(tick).wakes.update((rule, group) for rule in self._series[index].rules)

    def _look(self, tick: int, found: list[Transition]) -> None:
        what = self._agenda.pop(tick)
        touched: dict[int, set[Group]] = defaultdict(set)
        for index, group in what.over:
            self._series[index].groups.pop(group, None)
            self._touch(touched, index, group)
        self._evaluate_all(touched, tick, found)  # a level ends with its period, also if the next one begins above it
        touched.clear()
        for index, session, opened in sorted(what.opened, key=lambda one: one[2] is None):
            self._open_or_close(index, session, opened)
            self._touch(touched, index, ())
        for index, session in what.forgotten:
            series = self._series[index]
            if series.open.get(session) == tick:
                del series.open[session]
            series.figures(()).samples = len(series.open)
            self._touch(touched, index, ())
        for (index, group), change in what.changes.items():
            series = self._series[index]
            if series.period:
                self._spend(index, series, group, change.total, tick - 1)
            elif group in series.groups or len(series.groups) < MOST_GROUPS:
                series.figures(group).add(change.total, change.samples, change.bins)
            else:
                self.untracked += 1
            self._touch(touched, index, group)
        for rule, group in what.wakes:
            touched[rule].add(group)
        self._evaluate_all(touched, tick, found)
        for index, group in what.changes:
            self._series[index].tidy(group)

    def _evaluate_all(self, touched: dict[int, set[Group]], tick: int, found: list[Transition]) -> None:
        """Look at groups of rules, in the order of the rules: those that inhibit others come first."""
        if touched:
            for rule in range(len(self.watched)):
                if groups := touched.get(rule):
                    self._evaluate(rule, groups, tick, touched, found)

    def _touch(self, touched: dict[int, set[Group]], index: int, group: Group) -> None:
        for rule in self._series[index].rules:
            touched[rule].add(group)

    def _spend(self, index: int, series: Series, group: Group, total: int, tick: int) -> None:
        if group not in series.groups:
            if len(series.groups) >= MOST_GROUPS:
                self.untracked += 1
                return
            self._at(series.leaves(tick)).over.append((index, group))
        figures = series.figures(group)
        figures.total += total
        self._changed.spent[series.budget, group] = (period_of(tick, series.period)[0], figures.total)

    def _evaluate(
        self,
        rule: int,
        groups: Iterable[Group],
        tick: int,
        touched: dict[int, set[Group]],
        found: list[Transition],
    ) -> None:
        watched, states = self.watched[rule], self._states[rule]
        wants: list[tuple[float, Group, State]] = []
        moved = False
        for group in sorted(groups):
            state = states.get(group)
            known = state is not None
            value, samples = self._observe(rule, group)
            if state is None:
                if value is None and watched.condition.no_data != "fire":
                    continue
                state = State()
            before = (state.status, state.clear_since, state.cool_until, state.why)
            what = step(watched.condition, state, value, samples, tick, inhibited=self._is_inhibited(rule, group))
            if what.fire:
                wants.append((-abs((value or 0.0) - watched.condition.threshold), group, state))
                continue
            moved = moved or what.over
            if what.over and before[0] == "firing":
                self._told[rule] -= 1
                found.append(self._tell(rule, group, state, tick, "resolved"))
            elif what.over:
                self._suppressed[rule] -= 1
            if what.wake is not None:
                self._at(what.wake).wakes.add((rule, group))
            self._keep(rule, group, state, known, before)
            if self._report is not None and state.why is not Why.WELL:
                self._report(watched, group, tick, state)
        for _, group, state in sorted(wants, key=lambda one: one[:2]):
            self._fire(rule, group, state, tick, found)
        if moved or wants:
            self._overflow(rule, tick, found)
            for other in self._inhibits.get(rule, ()):
                touched[other].update(group for group in self._states[other] if group != OVERFLOW)

    def _fire(self, rule: int, group: Group, state: State, tick: int, found: list[Transition]) -> None:
        """Begin an episode; those that are worst come first, until the limit is reached."""
        told = self._told[rule] < self.watched[rule].limit
        fire(state, tick, told=told)
        self._told[rule] += told
        self._suppressed[rule] += not told
        self._states[rule][group] = state
        self._changed.states[rule, group] = state
        if told:
            found.append(self._tell(rule, group, state, tick, "firing"))
        if self._report is not None:
            self._report(self.watched[rule], group, tick, state)

    def _observe(self, rule: int, group: Group) -> tuple[float | None, int]:
        """The value of a group's window, and of how many samples it is."""
        watched = self.watched[rule]
        series = self._series[watched.series]
        figures = series.groups.get(group)
        if watched.budget is not None:
            return share_spent(watched.budget, 0 if figures is None else figures.total), 1
        if figures is None:
            return None, 0
        return series.measure.value(figures.total, figures.samples, figures.bins), figures.samples

    def _keep(self, rule: int, group: Group, state: State, known: bool, before: tuple[Any, ...]) -> None:
        if state.is_nothing:
            if known:
                del self._states[rule][group]
                self._changed.states[rule, group] = None
        else:
            self._states[rule][group] = state
            if not known or before != (state.status, state.clear_since, state.cool_until, state.why):
                self._changed.states[rule, group] = state

    def _is_inhibited(self, rule: int, group: Group) -> bool:
        by = self.watched[rule].inhibited_by
        if by is None:
            return False
        names = dict(zip(self.watched[rule].group_by, group, strict=True))
        other = self._states[by].get(tuple(names[name] for name in self.watched[by].group_by))
        return other is not None and other.status in ON

    def reason(self, rule: int, group: Group, state: State) -> str:
        """Why a group is where it is, in a sentence with the numbers."""
        return reason(self.watched[rule], group, state, self._suppressed[rule])

    def _tell(self, rule: int, group: Group, state: State, tick: int, to: str) -> Transition:
        return transition(self.watched[rule], group, state, tick, to, self._suppressed[rule])

    def _overflow(self, rule: int, tick: int, found: list[Transition]) -> None:
        """Tell once that there are more groups than are told of, and once that there are not."""
        state = self._states[rule].get(OVERFLOW)
        more = self._suppressed[rule]
        if more and state is None:
            state = self._states[rule][OVERFLOW] = State(value=float(more), samples=more)
            fire(state, tick, told=True)
            self._changed.states[rule, OVERFLOW] = state
            found.append(self._tell(rule, OVERFLOW, state, tick, "firing"))
        elif not more and state is not None:
            state.value, state.why = 0.0, Why.OVER
            del self._states[rule][OVERFLOW]
            self._changed.states[rule, OVERFLOW] = None
            found.append(self._tell(rule, OVERFLOW, state, tick, "resolved"))
