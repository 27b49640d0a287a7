import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from realtime.prices import cost
from realtime.refusals import REFUSALS
from realtime.simulator import Plan, SimulatedEvent, bench_mix, events

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(start=START, sessions=30, messages=20_000, invalid=0.05, duplicates=0.1, seed=7)
DIGEST = """
import hashlib
from datetime import UTC, datetime
from realtime.simulator import Plan, bench_mix, events
start = datetime(2026, 3, 1, 12, tzinfo=UTC)
digest = hashlib.sha256()
plan = Plan(start=start, messages=3000, invalid=0.05, duplicates=0.1)
for event in (*events(plan), *bench_mix(3000, start=start)):
    digest.update(repr(event).encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def made() -> list[SimulatedEvent]:
    return list(events(PLAN))


def body(event: SimulatedEvent) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(event.payload, parse_float=Decimal)
    return parsed


def test_the_same_plan_gives_the_same_bytes_in_any_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_another_seed_gives_other_traffic() -> None:
    one, other = (list(islice(events(replace(PLAN, seed=seed)), 500)) for seed in (1, 2))
    assert [event.kind for event in one] != [event.kind for event in other]


def test_another_start_gives_the_same_story_as_new_events() -> None:
    one, other = (
        list(islice(events(replace(PLAN, start=start)), 2000)) for start in (START, START + timedelta(days=1))
    )
    assert [(event.due, event.kind) for event in one] == [(event.due, event.kind) for event in other]
    assert not {event.identity for event in one if event.identity} & {event.identity for event in other}


def test_message_k_is_due_at_k_divided_by_the_rate(made: list[SimulatedEvent]) -> None:
    assert [event.due for event in made] == [number / 200 for number in range(20_000)]


@pytest.mark.parametrize(
    ("lengths", "total"),
    [
        ({"messages": 50}, 50),
        ({"seconds": 2.0}, 400),
        ({"seconds": 2.0, "messages": 50}, 50),
        ({"seconds": 0.1, "messages": 50}, 20),
        ({}, None),
    ],
)
def test_the_shorter_length_counts(lengths: dict[str, Any], total: int | None) -> None:
    plan = Plan(start=START, **lengths)
    assert plan.total == total
    assert len(list(islice(events(plan), 1000))) == (1000 if total is None else total)


def test_the_whole_contract_is_spoken(made: list[SimulatedEvent]) -> None:
    spoken = {(event.kind, body(event).get("type")) for event in made if event.valid}
    assert {kind for kind, _ in spoken} == {
        "session_connected",
        "session_disconnected",
        "function_call",
        "function_call_old",
        "telemetry",
        "telemetry_batch",
        "usage",
        "preview",
        "preview_step",
        "runtime",
        "build",
        "delta",
        "error",
        "other",
    }
    assert {kind for _, kind in spoken} >= {
        *("preview.started", "preview.frame", "preview.completed", "preview.failed"),
        *("preview_started", "preview_frame"),
        *("generate_unity_script.started", "generate_unity_script.completed", "generate_unity_script.failed"),
        *("script_generated", "patch_applied", "apply_patch.failed", "asset_ingested", "asset_deconstructed"),
        *("build_started", "build_progress", "build_completed", "build_failed", "build_timeout"),
    }


def test_every_subject_ends_with_the_session_that_the_payload_names(made: list[SimulatedEvent]) -> None:
    assert all(
        event.subject.startswith("spark.") and event.subject.rsplit(".", 1)[1] == body(event)["sessionId"]
        for event in made
        if event.valid
    )


@pytest.mark.parametrize("field", ["timestamp", "eventId", "userId"])
def test_what_is_optional_is_there_at_times(made: list[SimulatedEvent], field: str) -> None:
    assert len({field in body(event) for event in made if event.valid}) == 2


def test_an_event_has_an_event_id_a_message_id_both_or_neither(made: list[SimulatedEvent]) -> None:
    seen = set()
    for event in made:
        if event.valid:
            event_id = body(event).get("eventId")
            assert event.identity == (event_id or event.msg_id)
            seen.add((event_id is not None, event.msg_id is not None))
    assert len(seen) == 4


def test_event_time_follows_the_plan_and_a_few_messages_come_late(made: list[SimulatedEvent]) -> None:
    start_ms = START.timestamp() * 1000
    behind = [
        start_ms + event.due * 1000 - body(event)["timestamp"]
        for event in made
        if event.valid and not event.repeat and "timestamp" in body(event)
    ]
    assert min(behind) >= -1
    assert 0.005 < sum(delay > 41 for delay in behind) / len(behind) < 0.02
    assert max(behind) < 2000


def test_a_session_connects_before_it_does_anything_else() -> None:
    first: dict[str, str] = {}
    for event in events(Plan(start=START, sessions=10, messages=5000)):
        first.setdefault(body(event)["sessionId"], event.kind)
    assert len(first) > 10
    # One message in a hundred comes late, and that may be the first one.
    assert list(first.values()).count("session_connected") >= len(first) * 0.9


def test_a_failed_call_is_at_times_repeated_under_its_call_id(made: list[SimulatedEvent]) -> None:
    outcomes: dict[str, list[str]] = {}
    for event in made:
        if event.kind == "function_call" and not event.repeat:
            outcomes.setdefault(body(event)["callId"], []).append(body(event)["status"])
    retried = [sorted(outcome) for outcome in outcomes.values() if len(outcome) > 1]
    assert retried
    assert all(outcome == ["failed", "success"] for outcome in retried)


def test_the_share_of_refused_messages_is_as_planned_and_covers_every_reason(
    made: list[SimulatedEvent],
) -> None:
    refused = [event for event in made if not event.valid]
    assert 0.04 < len(refused) / len(made) < 0.06
    assert {event.refusal for event in refused} == {refusal.reason for refusal in REFUSALS}
    assert all(event.kind == "invalid" and event.msg_id for event in refused)


def test_repeats_are_an_earlier_event_again(made: list[SimulatedEvent]) -> None:
    earlier: dict[str, SimulatedEvent] = {}
    repeats = without_msg_id = 0
    for event in made:
        if event.repeat:
            assert event.identity is not None
            first = earlier[event.identity]
            assert (event.subject, event.payload, event.kind) == (first.subject, first.payload, first.kind)
            assert event.msg_id in (first.msg_id, None)
            repeats += 1
            if event.msg_id is None:
                assert body(event)["eventId"] == event.identity
                without_msg_id += 1
        elif event.identity is not None:
            assert event.identity not in earlier
            earlier[event.identity] = event
    assert 0.09 < repeats / len(made) < 0.11
    assert without_msg_id > repeats / 4


def test_the_cost_of_usage_is_exact(made: list[SimulatedEvent]) -> None:
    for event in made:
        if event.kind == "usage":
            usage = body(event)
            assert usage["costEstimate"] == cost(usage["model"], usage["tokensPrompt"], usage["tokensCompletion"])


def test_a_price_is_per_million_tokens_and_kept_to_six_places() -> None:
    assert cost("gpt-realtime-2.1", 1_000_000, 1_000_000) == Decimal(28)
    assert str(cost("gpt-realtime-2.1-mini", 1, 0)) == "0.000001"
    assert str(cost("gpt-realtime-1.5", 0, 0)) == "0.000000"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"start": datetime(2026, 1, 1)},
        {"sessions": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"invalid": -0.1},
        {"invalid": 0.6, "duplicates": 0.6},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"start|session|shares"):
        replace(PLAN, **nonsense)


def test_the_benchmarks_mix_has_the_shares_size_and_sessions_that_it_says() -> None:
    period = timedelta(minutes=5)
    mix = list(bench_mix(20_000, sessions=200, seed=3, invalid=0.02, start=START, period=period))
    kinds = Counter(event.kind.removesuffix("_old").removesuffix("_step") for event in mix)
    shares = {kind: round(number / 19_600, 2) for kind, number in kinds.items() if kind != "invalid"}
    assert shares == pytest.approx(
        {"function_call": 0.25, "telemetry": 0.25, "usage": 0.2, "preview": 0.1, "runtime": 0.2}, abs=0.011
    )
    assert kinds["invalid"] == pytest.approx(400, rel=0.2)
    sizes = [len(event.payload) for event in mix if event.valid]
    assert 380 < sum(sizes) / len(sizes) < 420
    assert len({event.msg_id for event in mix}) == 20_000
    assert len({event.subject.rsplit(".", 1)[1] for event in mix}) == 200
    times = [body(event)["timestamp"] for event in mix if event.valid]
    assert times == sorted(times)
    assert START.timestamp() * 1000 <= times[0] <= times[-1] < (START + period).timestamp() * 1000


def test_the_benchmarks_mix_is_recent_when_no_start_is_given() -> None:
    (event,) = bench_mix(1, invalid=0.0, period=timedelta(minutes=10))
    ago = datetime.now(UTC) - datetime.fromtimestamp(body(event)["timestamp"] / 1000, UTC)
    assert timedelta(minutes=10) <= ago < timedelta(minutes=11)
