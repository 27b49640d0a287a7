"""From settled batches to sums: what each stored event adds to the daily tables and to windows. Pure.

It starts from the rows that ingest writes (`flows.validate`), so that what is counted is what is stored.
"""

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
from connectors.sums import MINUTE_US, Counted, Sums, Window
from flows import rows
from flows.events import Kind, Refused, parse_subject
from flows.validate import validate

CALLS: Final = "calls"
USAGE_BY_MODEL: Final = "usage_by_model"
USAGE_BY_USER: Final = "usage_by_user"
EVENTS: Final = "events"
DEAD_LETTERS: Final = "dead_letters"
INGEST_DELAY: Final = "ingest_delay"
"""Signals of `slate.windows`."""

RELATIVE_ACCURACY: Final = 0.01
"""Of a percentile of durations (DDSketch, https://arxiv.org/abs/1908.10693)."""
ZERO: Final = -1
"""The bin of zero: a duration is a whole number of milliseconds, and that of 1 ms is 0."""

_DAY_US: Final = 86_400_000_000
_MICRO: Final = Decimal("0.000001")
_mapping = LogarithmicMapping(RELATIVE_ACCURACY)
_time_of = itemgetter(3)
_log = structlog.get_logger(__name__)


def fold(settled: SettledBatch) -> Counted:
    """Everything that a batch adds."""
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
    _fold_usage(sums, found.get(rows.USAGE, ()))
    calls: Any = found.get(rows.FUNCTION_CALLS, ())
    _fold_calls(sums, calls, settled.changes)
    _fold_events(sums, found.get(rows.EVENTS, ()))
    _fold_dead(sums, settled.dead)
    _fold_delays(sums, settled)
    return Counted(
        stream=settled.batch.stream,
        partition=settled.batch.partition,
        after=settled.batch.after,
        position=settled.batch.position,
        read=settled.read,
        watermark=_watermark(found, settled),
        idle=settled.idle,
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


def _window(sums: Sums, minute: int, signal: str, key: str, status: str = "") -> Window:
    place = (minute, signal, key, status)
    window = sums.windows.get(place)
    if window is None:
        window = sums.windows[place] = Window()
    return window


def _fold_usage(sums: Sums, found: Any) -> None:
    daily = sums.usage
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
        minute = ts // MINUTE_US
        for window in (
            _window(sums, minute, USAGE_BY_MODEL, model),
            _window(sums, minute, USAGE_BY_USER, _user(user)),
        ):
            window.count += 1
            window.tokens_prompt += prompt
            window.tokens_completion += completion
            window.cost += cost


def _fold_calls(sums: Sums, found: Any, changes: dict[int, CallChange]) -> None:
    for _, _, _, name, ts, duration_ms, status, *_, seq in found:
        change = changes.get(seq) if changes else None
        if change is None:
            _fold_call(sums, 1, ts, name, status, duration_ms)
        else:
            _fold_call(sums, -1, change.old_ts, change.old_name, change.old_status, change.old_duration_ms)
            _fold_call(sums, 1, change.new_ts, change.new_name, change.new_status, change.new_duration_ms)


def _fold_call(sums: Sums, by: int, ts: int, name: str, status: str, duration_ms: int | None) -> None:
    key = (ts // _DAY_US, name)
    total = sums.calls.get(key)
    if total is None:
        total = sums.calls[key] = [0, 0]
    total[status == "failed"] += by
    window = _window(sums, ts // MINUTE_US, CALLS, name, status)
    window.count += by
    if duration_ms is not None:
        place = bin_of(duration_ms)
        window.bins[place] = window.bins.get(place, 0) + by


def _fold_events(sums: Sums, found: Any) -> None:
    daily = sums.events
    for _, _, type_, ts, *_ in found:
        key = (ts // _DAY_US, type_)
        daily[key] = daily.get(key, 0) + 1
        _window(sums, ts // MINUTE_US, EVENTS, type_).count += 1


def _fold_dead(sums: Sums, dead: list[tuple[int, str]]) -> None:
    for received, code in dead:
        _window(sums, received // MINUTE_US, DEAD_LETTERS, code).count += 1


def _fold_delays(sums: Sums, settled: SettledBatch) -> None:
    """How long each message waited in the stream, by its time of receipt."""
    committed = settled.committed_us
    if committed is None:
        return
    for message in settled.batch.messages:
        received = message.stored_at // 1000
        window = _window(sums, received // MINUTE_US, INGEST_DELAY, "")
        window.count += 1
        place = bin_of(max(0, committed - received) // 1000)
        window.bins[place] = window.bins.get(place, 0) + 1


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


def micros(cost: str) -> int:
    """A cost in US dollars as millionths, rounded as the column `numeric(12,6)` rounds: half away from zero."""
    whole, _, fraction = cost.partition(".")
    if len(fraction) <= 6 and whole.isdecimal() and (not fraction or fraction.isdecimal()):
        return int(whole + fraction.ljust(6, "0"))
    return int(Decimal(cost).quantize(_MICRO, ROUND_HALF_UP).scaleb(6))


@lru_cache(maxsize=65_536)
def _user(data: bytes | None) -> str:
    return "" if data is None else str(UUID(bytes=data))
