"""Windows of event time by group: what enters and what leaves them. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Final

import msgspec

from flows.alert_rules import TICK_S, matches
from flows.alert_signals import Measure, SignalRow

Group = tuple[str, ...]
"""Values of the labels that a rule groups by."""

MOST_GROUPS: Final = 100_000
"""Groups of a rule that are looked at; what comes beyond them is not."""
_TICKS_AN_HOUR: Final = 3600 // TICK_S


class Figures(msgspec.Struct):
    """What is in a window of a group."""

    total: int = 0
    samples: int = 0
    bins: dict[int, int] = {}

    def add(self, total: int, samples: int, bins: Mapping[int, int], by: int = 1) -> None:
        """Add figures `by` times: -1 takes them away."""
        self.total += by * total
        self.samples += by * samples
        if bins:
            known = self.bins
            for place, count in bins.items():
                left = known.get(place, 0) + by * count
                if left:
                    known[place] = left
                else:
                    known.pop(place, None)


class Series:
    """The windows of one figure by group; rules that look at the same share them."""

    def __init__(self, measure: Measure, where: Mapping[str, list[str]], group_by: Sequence[str]) -> None:
        self.measure = measure
        self.rules: list[int] = []
        self.groups: dict[Group, Figures] = {}
        self.window = 0
        self.period = ""
        self.budget = ""
        """The budget's name, where this is one."""
        self._group_by = [attrgetter(measure.dimensions[name]) for name in group_by]
        self._where = [
            (name, attrgetter(measure.dimensions[name]), {name: patterns}) for name, patterns in where.items()
        ]
        self._passes: dict[tuple[str, str], bool] = {}
        self.open: dict[str, int] = {}
        """When each open session is forgotten, where this is about silence."""

    def group(self, row: SignalRow) -> Group | None:
        """The group of a row, None where the rule does not look at it."""
        for name, get, where in self._where:
            value = get(row)
            passes = self._passes.get((name, value))
            if passes is None:
                if len(self._passes) >= MOST_GROUPS:
                    self._passes.clear()
                passes = self._passes[name, value] = matches(where, name, value)
            if not passes:
                return None
        return tuple([get(row) for get in self._group_by])

    def figures(self, group: Group) -> Figures:
        """The window of a group."""
        found = self.groups.get(group)
        if found is None:
            found = self.groups[group] = Figures()
        return found

    def tidy(self, group: Group) -> None:
        """Forget a window that is empty; what was spent is known until its period is over."""
        if self.period:
            return
        figures = self.groups.get(group)
        if figures is not None and not (figures.total or figures.samples or figures.bins):
            del self.groups[group]

    def leaves(self, tick: int) -> int:
        """The tick at which what happened in a tick counts no more."""
        return tick + 1 + self.window if not self.period else period_of(tick, self.period)[1] + 1


def period_of(tick: int, period: str) -> tuple[int, int]:
    """The ticks at which the hour, day or month (UTC) around a tick begins and ends."""
    return _period_of_hour(tick // _TICKS_AN_HOUR, period)


@lru_cache(maxsize=1024)
def _period_of_hour(hour: int, period: str) -> tuple[int, int]:
    tick = hour * _TICKS_AN_HOUR
    if period != "month":
        length = (3600 if period == "hour" else 86_400) // TICK_S
        return tick - tick % length, tick - tick % length + length
    moment = datetime.fromtimestamp(tick * TICK_S, UTC)
    begins = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ends = (begins + timedelta(days=32)).replace(day=1)
    return int(begins.timestamp()) // TICK_S, int(ends.timestamp()) // TICK_S
