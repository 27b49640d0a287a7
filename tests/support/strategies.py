"""Hypothesis strategies: messages as anybody might publish them."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from realtime.simulator import Plan, events
from tests.support.messages import SOUND, message

PLAN: Final = Plan(start=datetime(2026, 3, 1, 11, tzinfo=UTC), sessions=30, messages=2000, seed=7)
EVENTS: Final = [(event.subject, event.payload) for event in events(PLAN)]

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
subjects = st.sampled_from(
    [subject for subject, _ in SOUND] + ["spark.dlq", "spark.s", "spark.a.b.c.d.e", "spark.nul\0"]
) | st.text(min_size=1).map("spark.".__add__)
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
"""Sound, damaged and senseless messages, with headers or none."""
