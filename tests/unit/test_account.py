"""Whatever comes, each message ends as exactly one of stored, duplicate and dead letter."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.messages import NatsSourceMessage
from flows.events import Outcomes
from flows.validate import validate
from realtime.simulator import Plan, events
from tests.support.messages import SOUND, batch, message

PLAN = Plan(start=datetime(2026, 3, 1, 11, tzinfo=UTC), sessions=30, messages=2000, seed=7)
EVENTS = [(event.subject, event.payload) for event in events(PLAN)]

anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["", "s", "\0", "ready", "success", "failed", 0, -1, 2**31, 2**63, 1e300, 1_741_964_966_535])
)
values = st.recursive(
    anything, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
fields = sorted({name for _, payload in EVENTS for name in msgspec.json.decode(payload)} | {"result", "functionName"})
subjects = st.sampled_from([subject for subject, _ in SOUND] + ["spark.dlq", "spark.s", "spark.a.b.c.d.e"]) | st.text(
    min_size=1
).map("spark.".__add__)
headers = st.dictionaries(
    st.sampled_from(["Nats-Msg-Id", "Slate-Event-Id", "Slate-Event-Time", "Other"]),
    st.sampled_from(["", "a", "b", "x" * 300, b"\xff", "0", "1741964966535", "9" * 20]),
    max_size=3,
)


def as_json(value: object) -> bytes:
    """JSON that a careless publisher might send: halves of surrogate pairs, and numbers of any size."""
    return json.dumps(value).encode()


objects = st.dictionaries(st.sampled_from(fields) | st.text(max_size=5), values, max_size=8).map(as_json)


@st.composite
def sound(draw: st.DrawFn) -> tuple[str, bytes]:
    """A message of the contract, at times with one of few identities."""
    subject, body = draw(st.sampled_from(SOUND))
    identity = draw(st.sampled_from([None, "a", "b", "c"]))
    return subject, msgspec.json.encode(body if identity is None else body | {"eventId": identity})


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A simulated event in which a field is gone, is something else, or is new, or whose bytes are cut or flipped."""
    subject, payload = draw(st.sampled_from(EVENTS))
    body: dict[str, Any] = msgspec.json.decode(payload)
    match draw(st.sampled_from(["nothing", "drop", "replace", "add", "cut", "flip", "splice"])):
        case "drop":
            del body[draw(st.sampled_from(sorted(body)))]
        case "replace":
            body[draw(st.sampled_from(sorted(body)))] = draw(values)
        case "add":
            body[draw(st.sampled_from(fields) | st.text(max_size=5))] = draw(values)
        case "cut":
            return subject, payload[: draw(st.integers(0, len(payload)))]
        case "flip":
            at = draw(st.integers(0, len(payload) - 1))
            return subject, payload[:at] + bytes([draw(st.integers(0, 255))]) + payload[at + 1 :]
        case "splice":
            at = draw(st.integers(0, len(payload)))
            return subject, payload[:at] + draw(st.binary(max_size=8)) + payload[at:]
    return subject, as_json(body)


messages = st.builds(
    lambda told, block: message(told[0], told[1], block),
    st.tuples(subjects, st.binary() | objects | values.map(as_json)) | sound() | damaged(),
    headers,
)


def check(result: Outcomes) -> None:
    """The account balances, and says what rows and dead letters there are."""
    assert min(result.stored, result.duplicate, result.dead_messages) >= 0
    assert result.stored + result.duplicate + result.dead_messages == len(result.batch.messages)
    keys = Counter(row[0] for rows in result.rows.values() for row in rows)
    positions = keys.pop(None, 0)
    assert keys.keys() == set(result.ids)
    assert len(set(result.ids)) == len(result.ids) == len(result.owners)
    assert bool(result.stored) == bool(keys or positions)
    assert result.stored <= len(result.ids) + positions
    assert len(result.dead) == len(result.dead_owners)
    whole = [owner for owner, letter in zip(result.dead_owners, result.dead, strict=True) if letter.element is None]
    assert len(set(whole)) == len(whole) <= result.dead_messages <= len(set(result.dead_owners))
    assert not set(whole) & (set(result.owners) | result.settled)
    for owner, letter in zip(result.dead_owners, result.dead, strict=True):
        assert letter.stage
        assert letter.code
        assert letter.reason
        original = result.batch.messages[owner]
        assert letter.message.sequence == original.sequence
        assert letter.message == original or letter.element is not None


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=30))
def test_every_message_is_stored_a_duplicate_or_a_dead_letter(those: list[NatsSourceMessage]) -> None:
    check(validate(batch(*those)))


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=30), st.data())
def test_so_it_is_after_what_the_database_knows_is_dropped(those: list[NatsSourceMessage], data: st.DataObject) -> None:
    result = validate(batch(*those))
    before = validate(batch(*those))
    known = set(data.draw(st.lists(st.sampled_from(result.ids)))) if result.ids else set()
    result.drop_known(known)
    check(result)
    assert result.ids == [key for key in before.ids if key not in known]
    assert {table: rows for table, rows in result.rows.items() if rows} == {
        table: left for table, rows in before.rows.items() if (left := [row for row in rows if row[0] not in known])
    }
    assert result.dead == before.dead
    again = msgspec.structs.asdict(result)
    result.drop_known(known)
    assert msgspec.structs.asdict(result) == again


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, min_size=1, max_size=20))
def test_a_message_fares_alone_as_it_fares_in_company_unless_it_repeats_another(those: list[NatsSourceMessage]) -> None:
    together = validate(batch(*those))
    dead = set(together.dead_owners)
    for index, one in enumerate(those):
        alone = validate(batch(one))
        assert bool(alone.dead) == (index in dead)


def test_simulated_traffic_is_stored_whole() -> None:
    result = validate(batch(*(message(subject, payload) for subject, payload in EVENTS)))
    check(result)
    assert (result.stored, result.dead) == (len(EVENTS), [])
