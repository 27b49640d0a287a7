"""What alert rules can look at: signals, and the figures that are measured of them. Pure.

A row is what happened in one tick (two seconds of event time); `flows.fold` makes them of the stream, `flows.backtest`
of the tables. Of a window's rows a measure makes a value and says of how many samples.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec

from flows.fold import (
    CALLS,
    DEAD_LETTERS,
    EVENTS,
    INGEST_DELAY,
    PREVIEW_CACHE,
    PREVIEWS,
    USAGE,
    quantile,
)

SAMPLES: Final = "samples"
"""The signal of what is sampled by the clock instead of being counted by event time: its key is the measure, its
`cost` the value. The value of a window is the mean."""
OPEN_FOR_S: Final = 3600
"""How long a session counts as open after it connected, unless it disconnects before: OpenAI ends it after 60 min."""

MICRO: Final = 1_000_000
"""Costs and samples are counted in millionths."""

_bins = msgspec.json.Decoder(dict[int, int], strict=False).decode


class SignalRow(msgspec.Struct, frozen=True, gc=False):
    """Figures of one tick; `cost` in millionths of a dollar, `bins` a histogram as `flows.fold.bin_of` makes it."""

    tick: int
    signal: str
    key: str
    detail: str
    session_id: str
    count: int
    tokens: int
    cost: int
    bins: dict[int, int]


def signal_row(row: tuple[Any, ...]) -> SignalRow:
    """A row of `slate.alert_signals`, its histogram as JSON."""
    tick, signal, key, detail, session_id, count, tokens, cost, bins = row
    return SignalRow(tick, signal, key, detail, session_id, count, tokens, cost, {} if bins == "{}" else _bins(bins))


Part = tuple[int, int]
"""What a row adds: to the numerator and to the samples. Of sums: to the sum and to the samples."""


class Measure(msgspec.Struct, frozen=True):
    """A figure of a window.

    `parts` says what a row of each signal adds, None for nothing; `dimensions` which labels it can be grouped and
    filtered by, and which field of a row each is; `unit` is one of `share`, `ms`, `s`, `dollars`, `tokens`, `count`;
    `quantile` is set where the value is one of durations. `silence` counts signs of life, and its samples are the
    sessions that are open.
    """

    unit: str
    parts: Mapping[str, Callable[[SignalRow], Part | None]]
    dimensions: Mapping[str, str] = {}
    quantile: float | None = None
    sampled: bool = False
    silence: bool = False

    def value(self, total: int, samples: int, bins: Mapping[int, int]) -> float | None:
        """The value of a window; None where there are no samples."""
        if samples <= 0:
            return None
        if self.quantile is not None:
            return quantile(bins, self.quantile)
        if self.sampled:
            return total / samples / MICRO
        if self.unit == "share":
            return total / samples
        return total / MICRO if self.unit == "dollars" else float(total)


def _counted(row: SignalRow) -> Part:
    return row.count, row.count


def _good(row: SignalRow) -> Part:
    return 0, row.count


def _share_of(*bad: str, among: tuple[str, ...] = (), field: str = "detail") -> Callable[[SignalRow], Part | None]:
    """The share of some values of a field among those and others; without others, among all."""
    get = attrgetter(field)

    def part(row: SignalRow) -> Part | None:
        value = get(row)
        if value in bad:
            return row.count, row.count
        return (0, row.count) if not among or value in among else None

    return part


def _alive(row: SignalRow) -> Part:
    return row.count, 0


_FACTS: Final = (CALLS, USAGE, EVENTS, PREVIEWS)
"""Signals whose rows are rows of a table, each counted once."""
_FUNCTION: Final = {"function": "key"}
_ENGINE: Final = {"engine": "key"}
_USAGE: Final = {"model": "key", "user": "detail", "session": "session_id"}


def _sampled(name: str, unit: str) -> Measure:
    return Measure(unit, {SAMPLES: lambda row: (row.cost, row.count) if row.key == name else None}, sampled=True)


MEASURES: Final[Mapping[str, Measure]] = {
    "calls": Measure("count", {CALLS: _counted}, {"function": "key", "status": "detail"}),
    "call_error_rate": Measure("share", {CALLS: _share_of("failed")}, _FUNCTION),
    "call_p50": Measure("ms", {CALLS: _counted}, _FUNCTION, quantile=0.5),
    "call_p95": Measure("ms", {CALLS: _counted}, _FUNCTION, quantile=0.95),
    "call_p99": Measure("ms", {CALLS: _counted}, _FUNCTION, quantile=0.99),
    "events": Measure("count", {EVENTS: _counted}, {"type": "key"}),
    "build_failure_rate": Measure(
        "share", {EVENTS: _share_of("build_failed", "build_timeout", among=("build_completed",), field="key")}
    ),
    "build_timeout_rate": Measure(
        "share", {EVENTS: _share_of("build_timeout", among=("build_failed", "build_completed"), field="key")}
    ),
    "preview_failure_rate": Measure("share", {PREVIEWS: _share_of("error", among=("ready",))}, _ENGINE),
    "preview_cache_miss_rate": Measure("share", {PREVIEW_CACHE: _share_of("miss")}, _ENGINE),
    "dead_letters": Measure("count", {DEAD_LETTERS: _counted}, {"reason": "key"}),
    "dead_letter_rate": Measure("share", {DEAD_LETTERS: _counted} | dict.fromkeys(_FACTS, _good)),
    "publish_failure_rate": Measure(
        "share",
        {DEAD_LETTERS: lambda row: _counted(row) if row.key == "publisher" else None} | dict.fromkeys(_FACTS, _good),
    ),
    "tokens": Measure("tokens", {USAGE: lambda row: (row.tokens, row.count)}, _USAGE),
    "cost": Measure("dollars", {USAGE: lambda row: (row.cost, row.count)}, _USAGE),
    "ingest_delay_p95": Measure("ms", {INGEST_DELAY: _counted}, quantile=0.95),
    "ingest_delay_p99": Measure("ms", {INGEST_DELAY: _counted}, quantile=0.99),
    "silence": Measure("count", dict.fromkeys(_FACTS, _alive), silence=True),
    "queue_depth": _sampled("queue_depth", "count"),
    "ingest_lag": _sampled("ingest_lag", "s"),
    "rollup_lag": _sampled("rollup_lag", "s"),
}
"""By the name that a rule's `signal` gives."""


def in_words(value: float | None, unit: str) -> str:
    """A value for people, with its unit."""
    if value is None:
        return "no data"
    match unit:
        case "share":
            return f"{100 * value:.1f} %"
        case "dollars":
            return f"${value:,.2f}"
        case "ms":
            return f"{value:,.0f} ms"
        case "s":
            return f"{value:,.1f} s"
        case _:
            return f"{value:,.0f}"
