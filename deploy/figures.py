"""What the live view shows, worked out from the workers' Prometheus metrics and counts in the database."""

import math
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

RATE_WINDOW_S = 5.0
LATENCY_WINDOW_S = 10.0
SPARKS = 60
"""Seconds of history in the sparkline."""

_METRIC = "spark_ingest_"

K = TypeVar("K")


@dataclass(frozen=True)
class Scrape:
    """One worker's metrics at one time, summed over partitions."""

    messages: float = 0
    duplicates: float = 0
    lost: float = 0
    retries: float = 0
    lag: float = 0
    last_commit: float = 0
    """Unix time, 0 before the first commit."""
    rows: Mapping[str, float] = field(default_factory=dict)
    """By table."""
    dead_letters: Mapping[str, float] = field(default_factory=dict)
    """By reason."""
    latency: Mapping[float, float] = field(default_factory=dict)
    """Messages not slower than so many seconds: a cumulative histogram."""

    @classmethod
    def parse(cls, text: str) -> "Scrape":
        """Read the Prometheus text format."""
        plain: dict[str, float] = {}
        rows: dict[str, float] = {}
        dead: dict[str, float] = {}
        latency: dict[float, float] = {}
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                key = name.removeprefix(_METRIC)
                if key == "lost_messages_total":
                    # sequences are of the stream, so every partition reports the same gap
                    plain[key] = max(value, plain.get(key, 0))
                elif key == "rows_total":
                    _add(rows, labels["table"], value)
                elif key == "dead_letters_total":
                    _add(dead, labels["reason"], value)
                elif key == "latency_seconds_bucket":
                    _add(latency, float(labels["le"]), value)
                elif key == "last_commit_timestamp_seconds":
                    plain[key] = max(value, plain.get(key, 0))
                else:
                    _add(plain, key, value)
        return cls(
            messages=plain.get("messages_total", 0),
            duplicates=plain.get("duplicates_total", 0),
            lost=plain.get("lost_messages_total", 0),
            retries=plain.get("retries_total", 0),
            lag=plain.get("lag_messages", 0),
            last_commit=plain.get("last_commit_timestamp_seconds", 0),
            rows=rows,
            dead_letters=dead,
            latency=latency,
        )


@dataclass(frozen=True)
class Today:
    """Today's totals (UTC); cost in US dollars, `behind` in messages that are in none yet."""

    tokens_prompt: int
    tokens_completion: int
    cost: Decimal
    calls: int
    failed: int
    behind: int


@dataclass(frozen=True)
class Minute:
    """A minute of event time; durations in milliseconds."""

    calls: int
    failed: int
    tokens: int
    p95_ms: float


@dataclass(frozen=True)
class Firing:
    """An alert that fires."""

    severity: str
    rule: str
    reason: str
    starts_at: datetime


@dataclass(frozen=True)
class Counts:
    """What the database holds: rows by table, dead letters by reason, today's totals, the last minutes, and alerts."""

    rows: Mapping[str, int]
    dead_letters: Mapping[str, int]
    today: Today | None = None
    minutes: Sequence[Minute] = ()
    firing: Sequence[Firing] = ()


@dataclass(frozen=True)
class Figures:
    """One picture of the stack."""

    rate: float = 0.0
    """Messages a second."""
    history: tuple[float, ...] = ()
    """The rate of the last seconds, oldest first."""
    lag: int | None = None
    """Messages stored by JetStream and not yet committed; None while no worker answers."""
    latency_p50: float | None = None
    latency_p99: float | None = None
    """Seconds from JetStream's store to commit, over the last seconds; None without messages."""
    commit_age: float | None = None
    """Seconds since the last commit."""
    duplicates: int = 0
    lost: int = 0
    retries: int = 0
    """All three since `slate up` began."""
    rows: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    today: Today | None = None
    minutes: Sequence[Minute] = ()
    """The last minutes, oldest first."""
    firing: Sequence[Firing] = ()
    """Alerts, the gravest first."""
    problem: str = ""
    """What cannot be read at the moment, for people."""


class Collector:
    """Turns scrapes and counts into figures; no I/O and no clock of its own.

    A restarted worker counts from zero again, so only differences are used.
    """

    def __init__(self) -> None:
        self._last: dict[int, Scrape] = {}
        self._totals = {"duplicates": 0.0, "lost": 0.0, "retries": 0.0}
        self._counts = Counts({}, {})
        self._since_count: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._arrivals: deque[tuple[float, float]] = deque()
        self._latencies: deque[tuple[float, dict[float, float]]] = deque()
        self._history: deque[float] = deque(maxlen=SPARKS)

    def counted(self, counts: Counts) -> None:
        """Take over counts made now."""
        self._counts = counts
        self._since_count = ({}, {})

    def update(self, now: float, wall: float, scrapes: Mapping[int, Scrape | None], problem: str = "") -> Figures:
        """Work out the figures at `now`.

        Args:
            now: monotonic seconds.
            wall: Unix time.
            scrapes: by worker, None for one that does not answer.
            problem: what else could not be read.
        """
        arrived, slowness = 0.0, dict[float, float]()
        for worker, scrape in scrapes.items():
            if scrape is None:
                continue
            first, last = worker not in self._last, self._last.get(worker, Scrape())
            self._last[worker] = scrape
            if first:
                continue  # it may have counted long before we looked
            arrived += _since(last.messages, scrape.messages)
            for name in self._totals:
                self._totals[name] += _since(getattr(last, name), getattr(scrape, name))
            for target, key in ((self._since_count[0], "rows"), (self._since_count[1], "dead_letters")):
                _add_all(target, _differences(getattr(last, key), getattr(scrape, key)))
            _add_all(slowness, _differences(last.latency, scrape.latency))
        self._remember(now, arrived, slowness)
        known = [one for one in scrapes.values() if one is not None]
        commit = max((one.last_commit for one in known), default=0.0)
        return Figures(
            rate=self._rate(now),
            history=tuple(self._history),
            lag=round(sum(one.lag for one in known)) if known else None,
            latency_p50=self._quantile(0.5),
            latency_p99=self._quantile(0.99),
            commit_age=max(wall - commit, 0.0) if commit else None,
            rows=_sum(self._counts.rows, self._since_count[0]),
            dead_letters=_sum(self._counts.dead_letters, self._since_count[1]),
            today=self._counts.today,
            minutes=self._counts.minutes,
            firing=self._counts.firing,
            problem=problem,
            **{name: round(value) for name, value in self._totals.items()},
        )

    def _remember(self, now: float, arrived: float, slowness: dict[float, float]) -> None:
        if self._arrivals:
            self._history.append(arrived / max(now - self._arrivals[-1][0], 1e-9))
        self._arrivals.append((now, arrived))
        while self._arrivals[0][0] < now - RATE_WINDOW_S:
            self._arrivals.popleft()
        self._latencies.append((now, slowness))
        while self._latencies[0][0] < now - LATENCY_WINDOW_S:
            self._latencies.popleft()

    def _rate(self, now: float) -> float:
        # the first entry's messages came before its time
        return sum(count for _, count in list(self._arrivals)[1:]) / max(now - self._arrivals[0][0], 1e-9)

    def _quantile(self, share: float) -> float | None:
        buckets: dict[float, float] = {}
        for _, slowness in self._latencies:
            _add_all(buckets, slowness)
        return quantile(share, buckets)


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate a quantile from a cumulative histogram, linear inside a bucket as Prometheus does.

    What lies above the last finite bound is given as that bound; None for an empty histogram.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    below, under = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return below
            inside = buckets[bound] - under
            return below + (bound - below) * ((rank - under) / inside if inside else 1.0)
        below, under = bound, buckets[bound]
    return below


def scrape(port: int, timeout: float = 2.0) -> Scrape | None:
    """Read a worker's metrics on this machine; None where it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout) as answer:
            return Scrape.parse(answer.read().decode())
    except (OSError, ValueError):
        return None


def _since(before: float, after: float) -> float:
    return after - before if after >= before else after


def _differences(before: Mapping[K, float], after: Mapping[K, float]) -> dict[K, float]:
    return {key: _since(before.get(key, 0), value) for key, value in after.items()}


def _add(target: dict[K, float], key: K, value: float) -> None:
    target[key] = target.get(key, 0) + value


def _add_all(target: dict[K, float], more: Mapping[K, float]) -> None:
    for key, value in more.items():
        _add(target, key, value)


def _sum(counted: Mapping[str, int], since: Mapping[str, float]) -> dict[str, int]:
    names: Iterable[str] = dict.fromkeys([*counted, *since])
    return {name: counted.get(name, 0) + round(since.get(name, 0)) for name in names}
