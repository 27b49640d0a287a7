"""What the rollup sink takes, in shapes: what to add to which row. `flows.fold` gives them their meaning.

Sums of any parts of the stream may be merged in any order: addition is all there is.
"""

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
    """What batches add. A call that was changed takes from what it was."""

    usage: dict[UsageKey, list[int]] = {}
    """Tokens of prompts, of completions, and cost in millionths of a dollar."""
    signals: dict[SignalKey, Window] = {}

    def add(self, other: "Sums") -> None:
        """Add another's figures."""
        for key, values in other.usage.items():
            known = self.usage.get(key)
            if known is None:
                self.usage[key] = values.copy()
            else:
                for index, value in enumerate(values):
                    known[index] += value
        for place, figures in other.signals.items():
            add_window(self.signals, place, figures)


class Totals(msgspec.Struct):
    """What a transaction writes: what follows from the sums of all its batches."""

    usage: dict[UsageKey, list[int]] = {}
    """As in `Sums`."""
    calls: dict[DayKey, list[int]] = {}
    """Successes and errors."""
    events: dict[DayKey, int] = {}
    windows: dict[WindowKey, Window] = {}
    signals: dict[SignalKey, Window] = {}
    """For alert rules."""


def add_window(target: dict[K, Window], key: K, more: Window) -> None:
    """Add figures to those of the same key."""
    known = target.get(key)
    if known is None:
        known = target[key] = Window()
    known.add(more)


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
