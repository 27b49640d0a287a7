"""The way of a message from the wire to rows: decode, subject, validate, outcome, columns, sums.

An input is a batch: messages that end with 0x1e, each of them subject, headers and payload that end with 0x1f.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from random import Random
from typing import Any, Final, Never

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from connectors.arrays import BIGINT, INTEGER, JSON, LABEL, TEXT, TIMESTAMP, UUID, ColumnType
from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.settled import SettledBatch
from flows.events import (
    BUILD_STATUS,
    EARLIEST_MS,
    ENGINES,
    MAX_AHEAD_MS,
    MAX_DEPTH,
    MAX_IDENTIFIER,
    MAX_REASON,
    MAX_SCALE,
    DeadLetter,
    Outcomes,
)
from flows.fold import fold
from flows.rows import TABLES
from flows.validate import validate
from tests.fuzz.target import PART, Target, in_time
from tests.integration.bad_messages import REFUSED
from tests.support.messages import SOUND, STORED_US, STREAM

_END: Final = b"\x1e"
_MOST: Final = 12
_MOST_DIGITS: Final = 4300
_LATEST_US: Final = STORED_US + MAX_AHEAD_MS * 1000
_NULLABLE: Final = frozenset(
    [
        "connected_at",
        "disconnected_at",
        "user_id",
        "project_id",
        "model",
        "mode",
        "meta",
        "duration_ms",
        "error",
        "args",
        "output",
        "frame_ref",
        "prompt",
        "build_target",
    ]
)
_CHOICES: Final = {
    ("spark_sessions", "mode"): {None, "creative", "deterministic", "hybrid"},
    ("spark_function_calls", "status"): {"success", "failed"},
    ("spark_previews", "engine"): ENGINES,
    ("spark_previews", "status"): {"idle", "loading", "ready", "error"},
    ("spark_build_jobs", "status"): {"queued", *BUILD_STATUS.values()},
}
_STAGES: Final = {"decode", "subject", "validate", "publisher"}
_object = msgspec.json.Decoder(dict[str, Raw])


def check(data: bytes) -> None:
    """A batch never raises, each of its messages has one outcome, and what is stored fits its columns."""
    batch = _batch(data)
    with in_time():
        outcomes = validate(batch)
        for table in TABLES:
            if rows := outcomes.rows.get(table.name):
                for turn in table.turns(rows):
                    table.parameters(turn)
        gone = set(outcomes.skipped())
        settled = replace(batch, messages=[one for one in batch.messages if one.sequence not in gone])
        fold(SettledBatch(settled, len(batch.messages), False, {}, [], None, _LATEST_US), sessions=True)
    _check_account(outcomes)
    _check_rows(outcomes)
    alone = [validate(replace(batch, messages=[one])) for one in batch.messages]
    for one, whole in zip(batch.messages, alone, strict=True):
        _check_one(one, whole)
    assert [letter for one in alone for letter in one.dead] == outcomes.dead, "a neighbour changes a dead letter"
    keys = {key for one in alone for key in one.ids}
    assert set(outcomes.ids) == keys, "an identity is lost or made up"
    known = set(outcomes.ids[::2])
    outcomes.drop_known(known)
    _check_account(outcomes)
    assert not known.intersection(outcomes.ids)


def _batch(data: bytes) -> NatsBatch:
    messages = []
    for number, part in enumerate(data.split(_END)[:_MOST], 1):
        subject, headers, payload = (*part.split(PART, 2), b"", b"")[:3]
        block = b"NATS/1.0\r\n" + headers + b"\r\n\r\n" if headers else b""
        text = subject.decode("utf-8", "replace")  # as `connectors.readers` does it
        messages.append(NatsSourceMessage(text, payload, number, STORED_US * 1000, block))
    return NatsBatch(STREAM, 0, 0, len(messages), messages)


def _check_account(outcomes: Outcomes) -> None:
    counts = outcomes.stored, outcomes.duplicate, outcomes.dead_messages
    assert min(counts) >= 0
    assert sum(counts) == len(outcomes.batch.messages)
    skipped = outcomes.skipped()
    assert skipped == sorted(set(skipped))
    assert len(skipped) == outcomes.duplicate + outcomes.dead_messages
    assert len(outcomes.ids) == len(set(outcomes.ids)) == len(outcomes.owners)


def _check_one(message: NatsSourceMessage, outcomes: Outcomes) -> None:
    """One outcome; a refused message keeps its bytes."""
    assert sorted((outcomes.stored, outcomes.duplicate, outcomes.dead_messages)) == [0, 0, 1]
    stored = sum(map(len, outcomes.rows.values()))
    assert (stored > 0) is (outcomes.stored == 1)
    assert outcomes.dead or not outcomes.dead_messages
    for letter in outcomes.dead:
        assert letter.stage in _STAGES
        assert letter.code
        assert 0 < len(letter.reason) <= MAX_REASON + len("a publisher could not deliver it: ")
        assert letter.code != "unexpected", letter.reason
        if letter.element is None:
            assert len(outcomes.dead) == 1
            assert letter.message is message
        else:
            _check_element(message, letter)


def _check_element(message: NatsSourceMessage, letter: DeadLetter) -> None:
    kept = letter.message
    assert (kept.subject, kept.sequence, kept.headers) == (message.subject, message.sequence, message.headers)
    (element,) = msgspec.json.decode(_object.decode(kept.payload)["events"], type=list[Raw])
    elements = msgspec.json.decode(_object.decode(message.payload)["events"], type=list[Raw])
    assert bytes(element) == bytes(elements[letter.element or 0])


def _check_rows(outcomes: Outcomes) -> None:
    for table in TABLES:
        for key, *values in outcomes.rows.get(table.name, []):
            assert key is None or (isinstance(key, bytes) and len(key) == 16)
            for (name, kind), value in zip(table._columns, values, strict=True):
                if value is None:
                    assert name in _NULLABLE, f"{table.name}.{name} is NULL"
                else:
                    _check_value(kind, value)
                assert value in _CHOICES.get((table.name, name), {value})  # type: ignore[operator]
                if name == "cost_estimate":
                    assert 0 <= round(Decimal(str(value)), 6) < 10**6


def _check_value(kind: ColumnType, value: Any) -> None:
    if kind is TEXT or kind is LABEL:
        assert "\0" not in value
        value.encode()
        assert kind is TEXT or len(value) <= MAX_IDENTIFIER
    elif kind is INTEGER:
        assert 0 <= value < 2**31
    elif kind is BIGINT:
        assert 0 <= value < 2**63
    elif kind is TIMESTAMP:
        assert EARLIEST_MS * 1000 <= value <= _LATEST_US
    elif kind is UUID:
        assert len(value) == 16
    else:
        assert kind is JSON
        check_jsonb(value)


def check_jsonb(data: bytes) -> None:
    """Hold the bytes against what PostgreSQL takes as jsonb, by Python's reader, which is not the one that ingest uses.

    A zero such as `0e1073741824` passes: PostgreSQL refuses it, and the writer makes a dead letter of it.
    """
    told = json.loads(data.decode(), parse_constant=_refuse, parse_float=_number, parse_int=_integer)
    left = [(told, 1)]
    while left:
        value, depth = left.pop()
        assert depth <= MAX_DEPTH + 2
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()
        elif isinstance(value, list):
            left += [(item, depth + 1) for item in value]
        elif isinstance(value, dict):
            left += [(item, depth + 1) for pair in value.items() for item in pair]


def _refuse(text: str) -> Never:
    raise AssertionError(f"{text} is not of JSON")


def _number(text: str) -> None:
    if not text.lower().partition("e")[0].strip("-0."):
        return
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    assert number.adjusted() <= 308, text[:50]
    assert -exponent <= MAX_SCALE, text[:50]


def _integer(text: str) -> None:
    assert len(text) <= _MOST_DIGITS + 1, text[:50]


def _message(subject: str | bytes, payload: bytes, headers: bytes = b"") -> bytes:
    name = subject if isinstance(subject, bytes) else subject.encode()
    block = headers.removeprefix(b"NATS/1.0\r\n").removesuffix(b"\r\n\r\n")
    return PART.join((name, block, payload))


_SOUND: Final = [(subject, msgspec.json.encode(fields)) for subject, fields in SOUND]
_SUBJECTS: Final = [*(subject.encode() for subject, _ in _SOUND), b"spark.dlq", b"spark.s", b"spark.a.b.c.d.e"]
_HEADERS: Final = [
    b"",
    b"Nats-Msg-Id: a",
    b"Nats-Msg-Id: \xff",
    b"Nats-Msg-Id: " + b"x" * 256,
    b"Nats-Msg-Id:\r\nSlate-Event-Id: a:3",
    b"Slate-Event-Time: 1741964966535\r\nSlate-Event-Id: b",
    b"Slate-Event-Time: 99999999999999999999",
]
_VALUES: Final = [
    *(b"null", b"true", b"false", b"{}", b"[]", b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\xff"', b'"\xc3\xa9"'),
    *(
        b"0",
        b"-1",
        b"2147483647",
        b"2147483648",
        b"9223372036854775808",
        b"1.5",
        b"1e400",
        b"-0.0",
        b"NaN",
        b"1E-16384",
    ),
    *(b"999999.9999995", b"1e-7", b"9" * 400, b"1577836800000", b"1741964966535", b"1741964966535.25", b"4e12"),
    *(b'{"success":false,"error":"e"}', b'[{"kind":"k","data":{}},{"kind":"","data":{}},7]', b'{"a":{"a":[1,"x"]}}'),
    *(b'"6f1c2a4e-58f1-4d0c-9a59-3b7f2f0c1d11"', b'"failed"', b'"ready"', b'"s"', b'"' + b"x" * 256 + b'"'),
    *(b"[" * 255 + b"]" * 255, b'{"x":' * 257 + b"1" + b"}" * 257, b'"\\\\u0000"', b'"\xf0\x9f\x98\x80"'),
]
_NAMES: Final = [
    b'"' + name.encode() + b'"'
    for name in (
        *("sessionId", "timestamp", "eventId", "userId", "projectId", "type", "kind", "data", "events", "payload"),
        *("callId", "name", "functionName", "status", "durationMs", "error", "args", "output", "result", "success"),
        *("model", "mode", "tokensPrompt", "tokensCompletion", "costEstimate", "engine", "frameRef", "meta", "delta"),
        *("jobId", "target", "progress", "scriptName", "scriptContent", "prompt", "cache", "x", "\\u0000", "\\ud83d"),
    )
]


def seeds() -> list[bytes]:
    """Sound messages, refused ones of a few kilobytes, and batches of both."""
    sound = [_message(subject, payload, headers) for subject, payload in _SOUND for headers in _HEADERS[:2]]
    refused = [_message(bad.subject, bad.payload, bad.headers) for bad in REFUSED if len(bad.payload) < 4096]
    batch = b"spark.telemetry.batch.s"
    elements = b'"events":[{"kind":"k","data":{}},{"kind":"","data":{}},7]}'
    refused += [
        _message(batch, b'{"x":' + value + b"," + elements) for value in (b"1e400", b'"\xff"', b'1e400,"\xff":1')
    ]
    return [*sound, *refused, _END.join(sound[:_MOST]), _END.join(sound[8:][:_MOST]), _END.join(refused[-_MOST:])]


def words() -> list[bytes]:
    """Pieces of messages."""
    return [_END, PART, *_SUBJECTS, *_HEADERS[1:], *_VALUES, *(name + b":" for name in _NAMES)]


def mutate(data: bytes, random: Random) -> bytes:
    """The batch with another subject, other headers, one more message, or a payload that is JSON still."""
    parts = data.split(_END)
    at = random.randrange(len(parts))
    subject, headers, payload = (*parts[at].split(PART, 2), b"", b"")[:3]
    match random.randrange(8):
        case 0:
            subject = random.choice(_SUBJECTS)
        case 1:
            headers = random.choice(_HEADERS)
        case 2:
            parts.insert(at, random.choice(parts))
        case 3:
            parts.insert(at, _message(*random.choice(_SOUND)))
        case _:
            payload = _changed(payload, random)
    parts[at] = PART.join((subject, headers, payload))
    return _END.join(parts)


def _changed(value: bytes, random: Random) -> bytes:
    """The JSON with one value gone, replaced or new, at any depth."""
    try:
        if value.startswith(b"{"):
            pairs = [(msgspec.json.encode(name), bytes(raw)) for name, raw in _object.decode(value).items()]
            _change([pair[1] for pair in pairs], random, pairs)
            return b"{" + b",".join(name + b":" + raw for name, raw in pairs) + b"}"
        if value.startswith(b"["):
            items = [(b"", bytes(raw)) for raw in msgspec.json.decode(value, type=list[Raw])]
            _change([item[1] for item in items], random, items)
            return b"[" + b",".join(raw for _, raw in items) + b"]"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return random.choice(_VALUES)


def _change(values: Iterable[bytes], random: Random, pairs: list[tuple[bytes, bytes]]) -> None:
    at = random.randint(0, len(pairs))
    action = random.randrange(4)
    if at == len(pairs) or action == 0:
        pairs.insert(at, (random.choice(_NAMES), random.choice([*_VALUES, *values])))
    elif action == 1:
        del pairs[at]
    else:
        name, raw = pairs[at]
        inside = raw[:1] in (b"{", b"[") and random.random() < 0.7
        pairs[at] = (name, _changed(raw, random) if inside else random.choice(_VALUES))


TARGET: Final = Target("decoder", check, seeds, words, mutate)
