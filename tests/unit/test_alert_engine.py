"""Alerts follow from the rows alone: against a plain model, however they are cut, and whoever is killed."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.alerts import Transition
from flows.alert_engine import Engine
from flows.alert_machine import Condition, State, fire, step
from flows.alert_rules import Rule, Rules
from flows.alert_signals import SignalRow
from flows.alert_windows import period_of
from flows.alert_words import fingerprint
from tests.support.alerts import HOUR, Memory, call, error_rate, event, expected, p95, rules, told, usage

BASE = 800_000_000 - 800_000_000 % HOUR + HOUR - 40
"""A little before a full hour."""
FUNCTIONS = ("f", "g", "h")

durations = st.sampled_from([0, 2, 4, 10])
made_rules = st.builds(
    lambda **told: Rule.model_validate(told, strict=False),
    name=st.just("r"),
    signal=st.sampled_from(["call_error_rate", "call_p95"]),
    group_by=st.sampled_from([[], ["function"]]),
    window=st.sampled_from([2, 6, 20, 40]),
    above=st.sampled_from([0.0, 0.3, 0.5]),
    clear=st.sampled_from([None, 0.0]),
    **{"for": durations},
    clear_after=durations,
    cooldown=st.sampled_from([0, 6, 30]),
    min_samples=st.sampled_from([1, 3]),
    no_data=st.sampled_from(["resolve", "keep"]),
)
calls = st.builds(
    call,
    st.integers(BASE, BASE + 60),
    st.sampled_from(FUNCTIONS),
    failed=st.booleans(),
    ms=st.sampled_from([None, -1, 0, 30]),
    count=st.sampled_from([1, 1, 2, 5]),
)
users = st.builds(usage, st.integers(BASE, BASE + 60), st.sampled_from(["u", "v"]), st.sampled_from([0, 30, 60, 100]))
cuts = st.lists(st.tuples(st.integers(BASE - 2, BASE + 90), st.booleans()), max_size=12)
END = BASE + 120


def run(those: Rules, rows: list[SignalRow], at: list[tuple[int, bool]]) -> list[Transition]:
    """Look at ticks, with all rows of earlier ticks in no order, and crash after some looks."""
    memory = Memory(those)
    left = sorted(rows, key=lambda row: row.tick)
    now = BASE - 10
    for tick, crash in [*sorted(at), (END, False)]:
        now = max(now, tick)
        here = [row for row in left if row.tick < now]
        left = left[len(here) :]
        random.Random(tick).shuffle(here)
        memory.look(here, now)
        if crash:
            memory.crash()
    return memory.transitions


@settings(max_examples=1500, deadline=None)
@given(rule=made_rules, rows=st.lists(calls, min_size=1, max_size=60), at=cuts)
def test_a_rule_decides_what_a_plain_model_decides_that_looks_at_every_tick(
    rule: Rule, rows: list[SignalRow], at: list[tuple[int, bool]]
) -> None:
    those = Rules(rules=[rule])
    found = told(run(those, rows, at))
    value = p95 if rule.signal == "call_p95" else error_rate
    for function in FUNCTIONS if rule.group_by else [None]:
        labels = {"function": function} if function is not None else {}
        own = [row for row in rows if function in (None, row.key)]
        wanted = expected(rule, value, own, range(BASE - 10, END + 1)) if own else []
        assert [(tick, state) for tick, _, state, has in found if labels.items() <= has.items()] == wanted


@settings(max_examples=400, deadline=None)
@given(rows=st.lists(users | calls, min_size=1, max_size=60), at=cuts)
def test_all_kinds_of_rules_together_decide_the_same_however_they_are_cut_and_killed(
    rows: list[SignalRow], at: list[tuple[int, bool]]
) -> None:
    those = rules("""
        [[rules]]
        name = "bad"
        signal = "call_error_rate"
        group_by = ["function"]
        window = "20s"
        above = 0.5
        limit = 1
        [[rules]]
        name = "poor"
        signal = "call_error_rate"
        group_by = ["function"]
        window = "10s"
        above = 0.2
        inhibited_by = "bad"
        [[rules]]
        name = "dear"
        signal = "tokens"
        group_by = ["user"]
        window = "30s"
        above = 100
        for = "4s"
        [[budgets]]
        name = "hour"
        tokens = 200
        per = "user"
        period = "hour"
        [[budgets]]
        name = "all"
        tokens = 500
        per = "all"
        period = "day"
    """)
    whole = run(those, rows, [])
    assert told(run(those, rows, at)) == told(whole)
    assert [one.reason for one in run(those, rows, at)] == [one.reason for one in whole]
    for identity, count in Counter((one.fingerprint, one.starts, one.state) for one in whole).items():
        assert count == 1, identity


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(users, min_size=1, max_size=40))
def test_a_budget_tells_each_level_once_in_a_period_and_ends_with_it(rows: list[SignalRow]) -> None:
    those = rules('[[budgets]]\nname = "b"\ntokens = 200\nper = "user"\nperiod = "hour"\nat = [50, 100]')
    found = told(run(those, rows, []))
    for user in ("u", "v"):
        for level in (50, 100):
            wanted, spent = list[tuple[int, str]](), 0
            for tick in range(BASE, END + 1):
                if (tick - 1) % HOUR == 0:
                    wanted += [(tick, "resolved")] if spent >= 2 * level else []
                    spent = 0
                had, spent = (
                    spent,
                    spent + sum(row.tokens for row in rows if (row.tick, row.detail) == (tick - 1, user)),
                )
                wanted += [(tick, "firing")] if had < 2 * level <= spent else []
            own = {"user": user, "level": str(level)}.items()
            assert [(tick, state) for tick, _, state, labels in found if own <= labels.items()] == wanted


def test_a_level_that_the_next_period_begins_above_is_told_of_again() -> None:
    those = rules('[[budgets]]\nname = "b"\ntokens = 100\nper = "all"\nperiod = "hour"\nat = [100]')
    hour = BASE - BASE % HOUR + HOUR
    found = run(those, [usage(hour - 5, "u", 150), usage(hour, "u", 150)], [])
    assert [(tick - hour, state) for tick, _, state, _ in told(found)] == [
        (-4, "firing"),
        (1, "resolved"),
        (1, "firing"),
    ]


@settings(max_examples=500, deadline=None)
@given(
    rule=made_rules,
    values=st.lists(st.tuples(st.sampled_from([None, 0.0, 0.4, 1.0]), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_whoever_waits_waits_for_a_later_tick(rule: Rule, values: list[tuple[float | None, int, bool]]) -> None:
    condition, state = Condition.of(rule), State()
    for tick, (value, samples, inhibited) in enumerate(values):
        what = step(condition, state, value, samples, tick, inhibited=inhibited)
        if what.fire:
            fire(state, tick, told=True)
        assert what.wake is None or what.wake > tick


def test_hysteresis_keeps_a_value_that_swings_between_its_two_thresholds_from_flapping() -> None:
    text = '[[rules]]\nname = "r"\nsignal = "call_error_rate"\nwindow = "2s"\nabove = 0.5\n'
    rows = []
    for tick in range(BASE, BASE + 50):
        share = 6 if tick % 2 else 4  # of ten
        rows += [call(tick, "f", failed=True, count=share), call(tick, "f", count=10 - share)]
    assert len(run(rules(text), rows, [])) > 40
    assert [state for _, _, state, _ in told(run(rules(text + "clear = 0.3\n"), rows, []))] == ["firing", "resolved"]


def test_ten_thousand_groups_at_once_page_as_often_as_the_limit_says_and_once_for_the_rest() -> None:
    those = rules(
        '[[rules]]\nname = "r"\nsignal = "call_error_rate"\ngroup_by = ["function"]\nwindow = "10s"\nabove = 0.5\n'
        "limit = 20"
    )
    rows = [call(BASE, f"f{number}", failed=True) for number in range(10_000)]
    found = run(those, rows, [])
    firing = [one for one in found if one.state == "firing"]
    assert len(firing) == 21
    (overflow,) = [one for one in firing if "overflow" in one.labels]
    assert overflow.reason == "9,980 more groups fire; 20 are told of at a time"
    assert len([one for one in found if one.state == "resolved"]) == 21


def test_those_that_are_worst_are_told_of_first() -> None:
    those = rules(
        '[[rules]]\nname = "r"\nsignal = "calls"\ngroup_by = ["function"]\nwindow = "10s"\nabove = 1\nlimit = 2'
    )
    rows = [call(BASE, name, count=count) for name, count in (("a", 3), ("b", 9), ("c", 5), ("d", 2))]
    firing = [one.labels.get("function") for one in run(those, rows, []) if one.state == "firing"]
    assert firing == ["b", "c", None]


def test_an_alert_says_in_words_what_where_and_why() -> None:
    those = rules("""
        [[rules]]
        name = "function-errors"
        signal = "call_error_rate"
        group_by = ["function"]
        window = "5m"
        above = 0.05
        for = "4s"
        labels.team = "tools"
        runbook = "https://example.com/{x}"
        annotations.summary = "{function}: {value} of {samples} in {window}, more than {threshold}"
    """)
    rows = [call(BASE, "g", count=7), call(BASE, "g", failed=True)]
    (first,) = run(those, rows, [])  # five minutes are not over at the end
    assert first.labels == {
        "alertname": "function-errors",
        "severity": "warning",
        "team": "tools",
        "function": "g",
    }
    assert first.annotations == {
        "summary": "g: 12.5 % of 8 in 5m, more than 5.0 %",
        "runbook_url": "https://example.com/{x}",
    }
    assert first.reason == "12.5 % is above 5.0 % (8 samples in 5m) for 4s"


def test_a_rule_is_quiet_while_another_says_it_and_speaks_when_that_one_is_over() -> None:
    those = rules("""
        [[rules]]
        name = "critical"
        signal = "call_error_rate"
        group_by = ["function"]
        window = "10s"
        above = 0.5
        [[rules]]
        name = "warning"
        signal = "call_error_rate"
        group_by = ["function"]
        window = "40s"
        above = 0.1
        inhibited_by = "critical"
    """)
    rows = [call(BASE, "f", failed=True), call(BASE, "g", count=2), call(BASE, "g", failed=True)]
    assert [(tick - BASE, rule, state) for tick, rule, state, _ in told(run(those, rows, []))] == [
        (1, "critical", "firing"),
        (1, "warning", "firing"),  # of g, which nobody else tells of
        (6, "critical", "resolved"),
        (6, "warning", "firing"),
        (21, "warning", "resolved"),
        (21, "warning", "resolved"),
    ]


def test_silence_is_told_while_sessions_are_open_and_not_when_all_have_left() -> None:
    those = rules('[[rules]]\nname = "silence"\nsignal = "silence"\nwindow = "20s"')
    opened = [event(BASE, "connected", session="a"), event(BASE, "connected", session="b")]
    assert [(t - BASE, s) for t, _, s, _ in told(run(those, opened, []))] == [(11, "firing")]
    one_left = [*opened, event(BASE + 2, "disconnected", session="a")]
    assert [(t - BASE, s) for t, _, s, _ in told(run(those, one_left, [(BASE + 5, True)]))] == [(13, "firing")]
    both_left = [*one_left, event(BASE + 2, "disconnected", session="b")]
    assert told(run(those, both_left, [])) == []
    again = [*opened, call(BASE + 30, "f")]
    assert [(t - BASE, s) for t, _, s, _ in told(run(those, again, [(BASE + 20, True)]))] == [
        (11, "firing"),
        (31, "resolved"),
        (41, "firing"),
    ]


def test_a_session_that_says_no_goodbye_is_taken_for_closed_after_an_hour() -> None:
    engine = Engine(rules('[[rules]]\nname = "silence"\nsignal = "silence"\nwindow = "20s"'))
    engine.add([event(BASE, "connected", session="a")])
    found = told(engine.advance(BASE + 3 * HOUR))
    assert [(tick - BASE, state) for tick, _, state, _ in found] == [(11, "firing"), (1 + HOUR, "resolved")]


def test_a_rule_that_fires_without_data_does_so_when_its_window_has_gone_by() -> None:
    those = rules(
        '[[rules]]\nname = "r"\nsignal = "events"\nwhere.type = "beat"\nwindow = "20s"\nbelow = 1\nno_data = "fire"'
    )
    rows = [call(BASE, "f"), event(BASE + 15, "beat")]
    engine = Engine(those)
    engine.add(rows[1:])
    assert [(tick - BASE, state) for tick, _, state, _ in told(engine.advance(END))] == [(26, "firing")]


def test_what_comes_late_counts_from_then_on_and_what_comes_too_late_not_at_all() -> None:
    engine = Engine(rules('[[rules]]\nname = "r"\nsignal = "calls"\nwindow = "20s"\nabove = 2'))
    engine.add([call(BASE, "f")])
    engine.advance(BASE + 5)
    engine.add([call(BASE + 2, "f", count=2)])
    assert [(t - BASE, s) for t, _, s, _ in told(engine.advance(BASE + 8))] == [(6, "firing")]
    engine.advance(BASE + 50)
    engine.add([call(BASE, "f", count=9)])
    assert engine.advance(BASE + 60) == []
    assert engine.late == 1


def test_late_usage_counts_towards_the_period_in_which_it_happened_while_that_lasts() -> None:
    engine = Engine(rules('[[budgets]]\nname = "b"\ntokens = 100\nper = "all"\nperiod = "hour"\nat = [100]'))
    engine.add([usage(BASE, "u", 60)])
    engine.advance(BASE + 20)
    engine.add([usage(BASE + 1, "u", 60)])
    assert [(t - BASE, s) for t, _, s, _ in told(engine.advance(BASE + 30))] == [(21, "firing")]
    engine.advance(BASE + 60)
    engine.add([usage(BASE + 2, "u", 500)])
    assert told(engine.advance(BASE + 90)) == []


def test_a_ticks_hour_day_and_month_are_those_of_utc() -> None:
    leap_day = 1_709_164_800 // 2 + 7  # 2024-02-29T00:00:14Z
    assert period_of(leap_day, "hour") == (leap_day - 7, leap_day - 7 + HOUR)
    assert period_of(leap_day, "day") == (leap_day - 7, leap_day - 7 + 24 * HOUR)
    assert period_of(leap_day, "month") == (1_706_745_600 // 2, 1_709_251_200 // 2)


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4), st.dictionaries(st.text(min_size=1), st.text()))
def test_fingerprints_are_the_same_for_the_same_labels_only(one: dict[str, str], other: dict[str, str]) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert fingerprint(dict(reversed(one.items()))) == fingerprint(one)


@pytest.mark.parametrize("name", ["", "x" * 5000, "Ω≠\u202e", 'a"b\\c\n', "{value}"])
def test_labels_take_any_name_that_a_user_may_have_chosen(name: str) -> None:
    those = rules('[[rules]]\nname = "r"\nsignal = "calls"\ngroup_by = ["function"]\nabove = 0')
    (found,) = run(those, [call(BASE, name)], [])
    assert all(len(value) <= 200 and value for value in found.labels.values())
    other = run(those, [call(BASE, name + "y")], [])[0]
    assert found.fingerprint != other.fingerprint
