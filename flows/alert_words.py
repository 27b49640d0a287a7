"""What an alert says: its labels, the reason with the numbers, and annotations for people. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from connectors.alerts import Transition
from connectors.sums import TICK_US
from flows.alert_machine import Condition, State, Why
from flows.alert_rules import TICK_S, Budget, Rule
from flows.alert_signals import MICRO, in_words
from flows.alert_windows import Group

OVERFLOW: Final[Group] = ("\0",)
"""The group of the alert that counts those above the limit: no text that comes from outside has a NUL."""
_LONGEST_LABEL: Final = 200


class Watched(msgspec.Struct, frozen=True):
    """A rule, or a level of a budget, as the engine looks at it."""

    name: str
    condition: Condition
    series: int
    group_by: list[str]
    labels: dict[str, str]
    annotations: dict[str, str]
    limit: int
    unit: str
    within: str
    """The window or the period, for people."""
    inhibited_by: int | None = None
    budget: Budget | None = None

    @classmethod
    def rule(cls, rule: Rule, series: int, inhibited_by: int | None) -> "Watched":
        """A rule."""
        return cls(
            name=rule.name,
            condition=Condition.of(rule),
            series=series,
            group_by=rule.group_by,
            labels={"severity": rule.severity, **rule.labels},
            annotations=_annotations(rule),
            limit=rule.limit,
            unit=rule.measure.unit,
            within=_span(rule.window // TICK_S),
            inhibited_by=inhibited_by,
        )

    @classmethod
    def level(cls, budget: Budget, level: int, severity: str, series: int) -> "Watched":
        """A level of a budget."""
        share = level / 100
        return cls(
            name=budget.name,
            # reached is enough: the next smaller number is the threshold
            condition=Condition(threshold=share - 1e-12, clear=share - 1e-12, above=True),
            series=series,
            group_by=budget.dimensions,
            labels={"severity": severity, "level": str(level), **budget.labels},
            annotations=_annotations(budget),
            limit=budget.limit,
            unit="share",
            within=budget.period,
            budget=budget,
        )

    def labels_of(self, group: Group) -> dict[str, str]:
        """The labels of an alert; values that are too long are cut, and told apart by a hash."""
        labels = {"alertname": self.name, **self.labels}
        if group == OVERFLOW:
            return labels | {"overflow": "true"}
        return labels | {name: _label(value) for name, value in zip(self.group_by, group, strict=True) if value}


def transition(watched: Watched, group: Group, state: State, tick: int, to: str, suppressed: int) -> Transition:
    """The beginning or the end of an alert at a tick; `suppressed` groups of the rule are not told of."""
    labels = watched.labels_of(group)
    starts = state.starts if state.starts is not None else tick
    why = reason(watched, group, state, suppressed)
    names = dict.fromkeys(watched.group_by, "") | labels | {"rule": watched.name, "reason": why}
    names |= {"value": in_words(state.value, watched.unit), "samples": f"{state.samples:,}"}
    names |= {"threshold": in_words(watched.condition.threshold, watched.unit), "window": watched.within}
    if watched.budget is not None:
        names |= _budget_names(watched.budget, state.value)
    if group == OVERFLOW:
        annotations = {"summary": f"{watched.name}: {why}"}
    else:
        annotations = {name: text.format_map(names) for name, text in watched.annotations.items()}
    return Transition(
        rule=watched.name,
        fingerprint=fingerprint(labels),
        state=to,
        labels=labels,
        annotations=annotations,
        value=state.value,
        reason=why,
        starts=starts * TICK_US,
        ends=tick * TICK_US if to == "resolved" else None,
    )


def reason(watched: Watched, group: Group, state: State, suppressed: int) -> str:
    """Why a group is where it is, in a sentence with the numbers."""
    if group == OVERFLOW:
        return f"{suppressed:,} more groups fire; {watched.limit:,} are told of at a time"
    return _reason_of_budget(watched.budget, state) if watched.budget is not None else _reason(watched, state)


def fingerprint(labels: Mapping[str, str]) -> str:
    """The identity of a set of labels: 16 hexadecimal digits."""
    text = "\n".join(f"{name}\0{value}" for name, value in sorted(labels.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def share_spent(budget: Budget, spent: int) -> float:
    """What is spent of a budget, as a share of it; in tokens, or in millionths of a dollar."""
    return spent / budget.tokens if budget.tokens is not None else spent / MICRO / (budget.cost or 1.0)


def _reason(watched: Watched, state: State) -> str:
    condition = watched.condition
    if state.value is None:
        return f"no data in {watched.within}"
    value, side = in_words(state.value, watched.unit), "above" if condition.above else "below"
    of = f"{state.samples:,} {'samples' if state.samples != 1 else 'sample'} in {watched.within}"
    if state.why is Why.OVER:
        return f"{value} is no longer {side} {in_words(condition.clear, watched.unit)} ({of})"
    told = f"{value} is {side} {in_words(condition.threshold, watched.unit)} ({of})"
    match state.why:
        case Why.FIRES:
            return f"{told} for {_span(condition.for_)}" if condition.for_ else told
        case Why.FEW_SAMPLES:
            return f"{told}, of fewer samples than {condition.min_samples}"
        case why:
            return f"{told}: {why}"


def _reason_of_budget(budget: Budget, state: State) -> str:
    if state.status == "ok":
        return f"the {budget.period} is over"
    words = _budget_names(budget, state.value)
    return f"{words['spent']} of {words['budget']} are spent this {budget.period} ({in_words(state.value, 'share')})"


def _budget_names(budget: Budget, share: float | None) -> dict[str, str]:
    whole = float(budget.tokens) if budget.tokens is not None else budget.cost or 0.0
    unit = budget.measure.unit
    noun = " tokens" if budget.tokens is not None else ""
    return {
        "spent": in_words((share or 0.0) * whole, unit) + noun,
        "budget": in_words(whole, unit) + noun,
        "period": budget.period,
    }


def _annotations(told: Rule | Budget) -> dict[str, str]:
    """Templates; a runbook's address is none."""
    annotations = {"summary": "{rule}: {reason}"} | told.annotations
    if told.runbook is not None:
        annotations["runbook_url"] = told.runbook.replace("{", "{{").replace("}", "}}")
    return annotations


def _span(ticks: int) -> str:
    """A length of time as a rules file writes it."""
    seconds, text = ticks * TICK_S, ""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length:
            text += f"{seconds // length}{unit}"
            seconds %= length
    return text or "0s"


def _label(value: str) -> str:
    if len(value) <= _LONGEST_LABEL:
        return value
    digest = hashlib.blake2b(value.encode(), digest_size=4).hexdigest()
    return f"{value[: _LONGEST_LABEL - 10]}…{digest}"
