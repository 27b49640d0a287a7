"""When a group of a rule fires and when it is over: a state machine without clock, input or output. Pure.

Times are ticks (`connectors.sums.TICK_US` of event time). Every step says why it did what it did, or did not.
"""

from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec

from flows.alert_rules import TICK_S, Rule

Status = Literal["ok", "pending", "firing", "suppressed"]
ON: Final = ("firing", "suppressed")


class Why(StrEnum):
    """Why a step ended as it did."""

    WELL = "well"
    FIRES = "fires"
    OVER = "over"
    STILL = "still firing"
    PENDING = "not for long enough"
    FEW_SAMPLES = "too few samples"
    NO_DATA = "no data"
    HYSTERESIS = "not past the value that clears it"
    CLEARING = "not clear for long enough"
    COOLDOWN = "fired a short time ago"
    INHIBITED = "another rule says it already"
    LIMIT = "too many groups of this rule fire"


class Condition(msgspec.Struct, frozen=True):
    """What of a rule decides, in ticks."""

    threshold: float
    clear: float
    above: bool
    for_: int = 0
    clear_after: int = 0
    cooldown: int = 0
    min_samples: int = 1
    no_data: str = "resolve"

    @classmethod
    def of(cls, rule: Rule) -> "Condition":
        """That of a rule; durations are rounded up to ticks."""
        clear = rule.threshold if rule.clear is None else rule.clear
        return cls(
            threshold=rule.threshold,
            clear=clear,
            above=rule.above is not None,
            for_=-(-rule.for_ // TICK_S),
            clear_after=-(-rule.clear_after // TICK_S),
            cooldown=-(-rule.cooldown // TICK_S),
            min_samples=rule.min_samples,
            no_data=rule.no_data,
        )

    def breached(self, value: float) -> bool:
        """Whether a value is past the threshold."""
        return value > self.threshold if self.above else value < self.threshold

    def cleared(self, value: float) -> bool:
        """Whether a value is back at the one that clears it."""
        return value <= self.clear if self.above else value >= self.clear


class State(msgspec.Struct):
    """Where a group is. `starts` is when the episode fired; `why`, `value` and `samples` are of the last step."""

    status: Status = "ok"
    since: int = 0
    clear_since: int | None = None
    cool_until: int | None = None
    starts: int | None = None
    value: float | None = None
    samples: int = 0
    why: Why = Why.WELL

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to remember."""
        return self.status == "ok" and self.cool_until is None


class Step(NamedTuple):
    """What follows: `fire` asks to fire (the function of that name does it), `over` has resolved; `wake` is a later
    tick at which to look again though nothing has changed."""

    fire: bool = False
    over: bool = False
    wake: int | None = None


_NOTHING: Final = Step()


def step(condition: Condition, state: State, value: float | None, samples: int, now: int, *, inhibited: bool) -> Step:
    """One look at a group at a tick, with its value (None for no data) of so many samples."""
    state.value, state.samples = value, samples
    if state.cool_until is not None and now >= state.cool_until:
        state.cool_until = None
    if value is None:
        return _without_data(condition, state, now, inhibited)
    if samples < condition.min_samples:
        return _unsure(condition, state, value)
    if condition.breached(value):
        return _breached(condition, state, now, inhibited)
    return _clearing(condition, state, value, now) if state.status in ON else _well(state, Why.WELL)


def fire(state: State, now: int, *, told: bool) -> None:
    """Begin an episode; one that is above the limit is not told of."""
    state.status = "firing" if told else "suppressed"
    state.since = state.starts = now
    state.clear_since = state.cool_until = None
    state.why = Why.FIRES if told else Why.LIMIT


def _without_data(condition: Condition, state: State, now: int, inhibited: bool) -> Step:
    if condition.no_data == "fire":
        return _breached(condition, state, now, inhibited)
    if state.status not in ON:
        return _well(state, Why.NO_DATA)
    state.clear_since = None
    state.why = Why.NO_DATA
    return _NOTHING if condition.no_data == "keep" else _over(condition, state, now, Why.NO_DATA)


def _unsure(condition: Condition, state: State, value: float) -> Step:
    """Too few samples: whatever fires goes on, and nothing begins."""
    if state.status not in ON:
        return _well(state, Why.FEW_SAMPLES if condition.breached(value) else Why.WELL)
    state.clear_since = None
    state.why = Why.FEW_SAMPLES
    return _NOTHING


def _well(state: State, why: Why) -> Step:
    if state.status == "pending":
        state.status = "ok"
    state.why = why
    return Step(wake=state.cool_until)


def _breached(condition: Condition, state: State, now: int, inhibited: bool) -> Step:
    if state.status in ON:
        state.clear_since = None
        state.why = Why.STILL
        return _NOTHING
    if state.status == "ok":
        state.status, state.since = "pending", now
    due = state.since + condition.for_
    if now < due:
        state.why = Why.PENDING
        return Step(wake=due)
    if state.cool_until is not None and now < state.cool_until:
        state.why = Why.COOLDOWN
        return Step(wake=state.cool_until)
    if inhibited:
        state.why = Why.INHIBITED
        return _NOTHING
    return Step(fire=True)


def _clearing(condition: Condition, state: State, value: float, now: int) -> Step:
    if not condition.cleared(value):
        state.clear_since = None
        state.why = Why.HYSTERESIS
        return _NOTHING
    if state.clear_since is None:
        state.clear_since = now
    due = state.clear_since + condition.clear_after
    if now < due:
        state.why = Why.CLEARING
        return Step(wake=due)
    return _over(condition, state, now, Why.OVER)


def _over(condition: Condition, state: State, now: int, why: Why) -> Step:
    state.status, state.since, state.clear_since = "ok", now, None
    state.cool_until = now + condition.cooldown if condition.cooldown else None
    state.why = why
    return Step(over=True, wake=state.cool_until)
