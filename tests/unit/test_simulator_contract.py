"""The simulator and the validation are written apart: each is the other's test."""

from collections.abc import Iterable
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.messages import NatsBatch, NatsSourceMessage
from flows.events import Outcomes
from flows.validate import validate
from realtime.simulator import Plan, SimulatedEvent, bench_mix, events

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def outcomes(made: Iterable[SimulatedEvent]) -> Outcomes:
    messages = [
        NatsSourceMessage(
            event.subject,
            event.payload,
            number,
            int((START.timestamp() + event.due) * 1e9),
            f"NATS/1.0\r\nNats-Msg-Id: {event.msg_id}\r\n\r\n".encode() if event.msg_id else b"",
        )
        for number, event in enumerate(made, 1)
    ]
    return validate(NatsBatch("SPARK", 0, 0, len(messages), messages))


def check(made: list[SimulatedEvent]) -> None:
    result = outcomes(made)
    refused = {letter.message.sequence: (letter.reason, letter.path) for letter in result.dead}
    wrong = [(event, refused.get(number)) for number, event in enumerate(made, 1) if event.valid == (number in refused)]
    assert not wrong
    repeats = sum(event.repeat for event in made)
    assert (result.stored, result.duplicate, result.dead_messages) == (
        len(made) - repeats - len(refused),
        repeats,
        len(refused),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(), sessions=st.integers(1, 200), invalid=st.floats(0, 1), share=st.floats(0, 1))
def test_the_contract_accepts_what_is_valid_and_refuses_what_is_not(
    seed: int, sessions: int, invalid: float, share: float
) -> None:
    plan = Plan(
        start=START,
        sessions=sessions,
        messages=800,
        invalid=invalid,
        duplicates=share * (1 - invalid),
        seed=seed,
    )
    check(list(events(plan)))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(), sessions=st.integers(1, 2000), invalid=st.floats(0, 1))
def test_so_it_is_with_the_mix_of_the_benchmarks(seed: int, sessions: int, invalid: float) -> None:
    check(list(bench_mix(800, sessions, seed, invalid, start=START)))
