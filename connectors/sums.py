"""What the rollup sink takes, in shapes: what to add to which row. `flows.fold` gives them their meaning.

Sums of any parts of the stream may be merged in any order: addition is all there is.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

K = TypeVar("K")

DayKey = tuple[int, str]
"""A day (UTC, days since 1970) and a function or a type of event."""
UsageKey = tuple[int, str, str]
"""A day, a session and a model."""
WindowKey = tuple[int, str, str, str]
"""A minute (since 1970), a signal, a key and a status; see `slate.windows`."""

SignalKey = tuple[int, str, str, str, str]
"""A tick (of `TICK_US`, since 1970), a signal, a key, a detail and a session; see `slate.alert_signals`."""

MINUTE_US: Final = 60_000_000
TICK_US: Final = 2_000_000
"""How finely alert rules see event time."""


class Window(msgspec.Struct):
    """What to add to a window: costs in millionths of a dollar, bins as `slate.bin` numbers them."""

    count: int = 0
    tokens_prompt: int = 0
    tokens_completion: int = 0
    cost: int = 0
    bins: dict[int, int] = {}

    def add(self, other: "Window") -> None:
        """Add another's figures."""
        self.count += other.count
        self.tokens_prompt += other.tokens_prompt
        self.tokens_completion += other.tokens_completion
        self.cost += other.cost
        if other.bins:
            bins = self.bins
            for key, count in other.bins.items():
                bins[key] = bins.get(key, 0) + count


class Sums(msgspec.Struct):
    """What to add to the daily tables and to windows of a minute. A call that was changed takes from what it was."""

    usage: dict[UsageKey, list[int]] = {}
    """Tokens of prompts, of completions, and cost in millionths of a dollar."""
    calls: dict[DayKey, list[int]] = {}
    """Successes and errors."""
    events: dict[DayKey, int] = {}
    windows: dict[WindowKey, Window] = {}
    signals: dict[SignalKey, Window] = {}
    """For alert rules."""

    def add(self, other: "Sums") -> None:
        """Add another's figures."""
        _add_lists(self.usage, other.usage)
        _add_lists(self.calls, other.calls)
        for key, count in other.events.items():
            self.events[key] = self.events.get(key, 0) + count
        add_windows(self.windows, other.windows.items())
        add_windows(self.signals, other.signals.items())


def add_windows(target: dict[K, Window], more: Iterable[tuple[K, Window]]) -> None:
    """Add windows to those of the same key."""
    for key, window in more:
        known = target.get(key)
        if known is None:
            target[key] = Window()
            known = target[key]
        known.add(window)


def _add_lists(target: dict[K, list[int]], more: dict[K, list[int]]) -> None:
    for key, values in more.items():
        known = target.get(key)
        if known is None:
            target[key] = values.copy()
        else:
            for index, value in enumerate(values):
                known[index] += value


class Counted(msgspec.Struct, frozen=True):
    """A part of a partition, counted: `read` messages between two positions.

    `watermark` is the latest event time in it (microseconds since 1970), None where there is none, and `moved` when
    that was read; `drained`, when the stream held nothing more of the partition, None where it did; `calls`, the
    sequences of the messages that were calls.
    """

    stream: str
    partition: int
    after: int
    position: int
    read: int
    watermark: int | None
    moved: int | None
    drained: int | None
    calls: list[int]
    sums: Sums
