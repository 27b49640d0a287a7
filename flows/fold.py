"""From settled batches to sums: what each stored event adds to the daily tables and to windows. Pure.

It starts from the rows that ingest writes (`flows.validate`), so that what is counted is what is stored.
"""

from collections.abc import Collection, Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from ddsketch.mapping import LogarithmicMapping

from connectors.settled import CallChange, SettledBatch
from connectors.sums import MINUTE_US, TICK_US, Counted, SignalKey, Sums, Totals, Window, add_window
from flows import rows
from flows.events import Kind, Refused, parse_subject
from flows.validate import validate

CALLS: Final = "calls"
EVENTS: Final = "events"
DEAD_LETTERS: Final = "dead_letters"
INGEST_DELAY: Final = "ingest_delay"
"""Signals of `slate.windows` and of `slate.alert_signals`."""
USAGE_BY_MODEL: Final = "usage_by_model"
USAGE_BY_USER: Final = "usage_by_user"
"""Those of `slate.windows` only."""
USAGE: Final = "usage"
PREVIEWS: Final = "previews"
PREVIEW_CACHE: Final = "preview_cache"
"""Those of `slate.alert_signals` only."""
SESSION_EVENTS: Final = frozenset({"connected", "disconnected"})
"""Types of events of which alert rules must know the session: they say how many are open."""

RELATIVE_ACCURACY: Final = 0.01
"""Of a percentile of durations (DDSketch, https://arxiv.org/abs/1908.10693)."""
ZERO: Final = -1
"""The bin of zero: a duration is a whole number of milliseconds, and that of 1 ms is 0."""

_DAY_US: Final = 86_400_000_000
_TICKS_A_MINUTE: Final = MINUTE_US // TICK_US
_TICKS_A_DAY: Final = _DAY_US // TICK_US
_MICRO: Final = Decimal("0.000001")
_mapping = LogarithmicMapping(RELATIVE_ACCURACY)
_time_of = itemgetter(3)
_log = structlog.get_logger(__name__)


class _Meta(msgspec.Struct):
    """What is looked at of a preview's `meta`."""

    cache: object = None


_cache = msgspec.json.Decoder(_Meta)


def fold(settled: SettledBatch, *, sessions: bool = False) -> Counted:
    """Everything that a batch adds; usage with its sessions where alert rules ask for them."""
    messages = [message for message in settled.batch.messages if _is_counted(message.subject)]
    outcomes = validate(msgspec.structs.replace(settled.batch, messages=messages))
    if skipped := outcomes.skipped():
        _log.error(
            "ingest stored what this version refuses or takes for a duplicate: run the same version of both",
            partition=settled.batch.partition,
            sequences=skipped[:5],
            messages=len(skipped),
        )
    found = outcomes.rows
    sums = Sums()
    _fold_usage(sums, found.get(rows.USAGE, ()), sessions=sessions)
    calls: Any = found.get(rows.FUNCTION_CALLS, ())
    _fold_calls(sums, calls, settled.changes)
    events: Any = found.get(rows.EVENTS, ())
    for _, session_id, type_, ts, *_ in events:
        session = session_id if type_ in SESSION_EVENTS else ""
        _figures(sums.signals, ts, EVENTS, type_, "", session).count += 1
    _fold_previews(sums, found.get(rows.PREVIEWS, ()))
    for received, code in settled.dead:
        _figures(sums.signals, received, DEAD_LETTERS, code).count += 1
    _fold_delays(sums, settled)
    watermark = _watermark(found, settled)
    return Counted(
        stream=settled.batch.stream,
        partition=settled.batch.partition,
        after=settled.batch.after,
        position=settled.batch.position,
        read=settled.read,
        watermark=watermark,
        moved=None if watermark is None else settled.clock_us,
        drained=settled.clock_us if settled.idle else None,
        calls=[row[-1] for row in calls if row[-1] in settled.changes] if settled.changes else [],
        sums=sums,
    )


def _watermark(found: dict[str, list[Any]], settled: SettledBatch) -> int | None:
    """The latest event time, none ahead of the time of receipt: clocks that are ahead do not make others late."""
    messages = settled.batch.messages
    if not messages:
        return None
    usage_times = map(itemgetter(2), found.get(rows.USAGE, ()))
    call_times = map(itemgetter(4), found.get(rows.FUNCTION_CALLS, ()))
    others = map(_time_of, chain(found.get(rows.EVENTS, ()), found.get(rows.PREVIEWS, ())))
    latest = max(chain(usage_times, call_times, others), default=None)
    return None if latest is None else min(latest, messages[-1].stored_at // 1000)


def _figures(
    signals: dict[SignalKey, Window], ts: int, signal: str, key: str, detail: str = "", session: str = ""
) -> Window:
    place = (ts // TICK_US, signal, key, detail, session)
    figures = signals.get(place)
    if figures is None:
        figures = signals[place] = Window()
    return figures


def _fold_usage(sums: Sums, found: Any, *, sessions: bool) -> None:
    daily, signals = sums.usage, sums.signals
    for _, session_id, ts, model, prompt, completion, cost_text, user in found:
        cost = micros(cost_text)
        key = (ts // _DAY_US, session_id, model)
        total = daily.get(key)
        if total is None:
            daily[key] = [prompt, completion, cost]
        else:
            total[0] += prompt
            total[1] += completion
            total[2] += cost
        figures = _figures(signals, ts, USAGE, model, _user(user), session_id if sessions else "")
        figures.count += 1
        figures.tokens_prompt += prompt
        figures.tokens_completion += completion
        figures.cost += cost


def _fold_calls(sums: Sums, found: Any, changes: dict[int, CallChange]) -> None:
    for _, _, _, name, ts, duration_ms, status, *_, seq in found:
        change = changes.get(seq) if changes else None
        if change is None:
            _fold_call(sums, 1, ts, name, status, duration_ms)
        else:
            _fold_call(sums, -1, change.old_ts, change.old_name, change.old_status, change.old_duration_ms)
            _fold_call(sums, 1, change.new_ts, change.new_name, change.new_status, change.new_duration_ms)


def _fold_call(sums: Sums, by: int, ts: int, name: str, status: str, duration_ms: int | None) -> None:
    figures = _figures(sums.signals, ts, CALLS, name, status)
    figures.count += by
    if duration_ms is not None:
        place = bin_of(duration_ms)
        figures.bins[place] = figures.bins.get(place, 0) + by


def _fold_previews(sums: Sums, found: Any) -> None:
    for _, _, engine, ts, status, _, meta in found:
        _figures(sums.signals, ts, PREVIEWS, engine, status).count += 1
        if b'"cache"' in meta:
            cache = _cache.decode(meta).cache
            if cache in ("hit", "miss"):
                _figures(sums.signals, ts, PREVIEW_CACHE, engine, cache).count += 1


def _fold_delays(sums: Sums, settled: SettledBatch) -> None:
    """How long each message waited in the stream, by its time of receipt."""
    committed = settled.committed_us
    if committed is None:
        return
    for message in settled.batch.messages:
        received = message.stored_at // 1000
        figures = _figures(sums.signals, received, INGEST_DELAY, "")
        figures.count += 1
        place = bin_of(max(0, committed - received) // 1000)
        figures.bins[place] = figures.bins.get(place, 0) + 1


def fold_up(sums: Sums, usage_labels: Collection[str]) -> Totals:
    """What the sums of all batches of a transaction come to: days, windows of a minute, and figures for alert rules.

    Of usage, those figures have the labels of `usage_labels` only: what no rule needs would make a row of its own.
    """
    totals = Totals(usage=sums.usage)
    windows, calls, events, signals = totals.windows, totals.calls, totals.events, totals.signals
    by_model, by_user = "model" in usage_labels, "user" in usage_labels
    for place, figures in sums.signals.items():
        tick, signal, key, detail, session_id = place
        minute = tick // _TICKS_A_MINUTE
        if signal == USAGE:
            add_window(windows, (minute, USAGE_BY_MODEL, key, ""), figures)
            add_window(windows, (minute, USAGE_BY_USER, detail, ""), figures)
            needed = (tick, USAGE, key if by_model else "", detail if by_user else "", session_id)
            add_window(signals, needed, figures)
            continue
        signals[place] = figures
        if signal == CALLS:
            total = calls.setdefault((tick // _TICKS_A_DAY, key), [0, 0])
            total[detail == "failed"] += figures.count
            add_window(windows, (minute, CALLS, key, detail), figures)
        elif signal == EVENTS:
            day = (tick // _TICKS_A_DAY, key)
            events[day] = events.get(day, 0) + figures.count
            add_window(windows, (minute, EVENTS, key, ""), figures)
        elif signal in (DEAD_LETTERS, INGEST_DELAY):
            add_window(windows, (minute, signal, key, ""), figures)
    return totals


@lru_cache(maxsize=65_536)
def _is_counted(subject: str) -> bool:
    """Whether a message of this subject can make a row that is counted: telemetry, a quarter of all, never does."""
    try:
        return parse_subject(subject).kind not in (Kind.TELEMETRY, Kind.TELEMETRY_BATCH)
    except Refused:
        return True


@lru_cache(maxsize=65_536)
def bin_of(ms: int) -> int:
    """The bin of a duration; `slate.bin` in SQL is the same."""
    return int(_mapping.key(ms)) if ms else ZERO


def quantile(bins: Mapping[int, int], share: float) -> float | None:
    """A quantile of a histogram, right to 1 %; None where it is empty. `slate.quantile` in SQL is the same."""
    rank = share * (sum(bins.values()) - 1)
    up_to = 0
    for place in sorted(bins):
        up_to += bins[place]
        if up_to > rank:
            return float(_mapping.value(place)) if place != ZERO else 0.0
    return None


def micros(cost: str) -> int:
    """A cost in US dollars as millionths, rounded as the column `numeric(12,6)` rounds: half away from zero."""
    whole, _, fraction = cost.partition(".")
    if len(fraction) <= 6 and whole.isdecimal() and (not fraction or fraction.isdecimal()):
        return int(whole + fraction.ljust(6, "0"))
    return int(Decimal(cost).quantize(_MICRO, ROUND_HALF_UP).scaleb(6))


@lru_cache(maxsize=65_536)
def _user(data: bytes | None) -> str:
    return "" if data is None else str(UUID(bytes=data))
