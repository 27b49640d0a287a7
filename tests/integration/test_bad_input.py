"""Bad input, published to a real server and read by a real worker: it hurts only itself, and nothing of it is lost."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest

from connectors.settings import Settings
from realtime.simulator import Plan, events
from tests.conftest import MakeSettings
from tests.integration.bad_messages import BATCH, NEIGHBOUR, REFUSED, REFUSED_SUBJECTS, USAGE, data, sent, usage
from tests.support.messages import SOUND, header_block
from tests.support.stack import connect
from tests.support.traffic import last_sequence
from tests.support.waiting import eventually
from tests.support.wire import Wire
from tests.support.worker import Worker

Connection = psycopg.Connection[tuple[Any, ...]]


class Letter(NamedTuple):
    """A row of `slate.dead_letters`."""

    seq: int
    stage: str
    code: str
    subject: str
    payload: bytes
    headers: bytes
    reason: str
    path: str
    element: int | None


@pytest.fixture
def one_partition(make_settings: MakeSettings) -> Settings:
    """Settings of a stream with one partition: what is published side by side is written side by side."""
    return make_settings(partitions=1)


@contextmanager
def drained(settings: Settings, published: int, timeout: float = 60.0) -> Iterator[Connection]:
    """Run a worker until it has read all that was published; the ledger must balance, and the worker end in peace."""
    eventually(lambda: asyncio.run(last_sequence(settings)) == published, what="the stream holds what was published")
    with connect(settings) as connection, Worker(settings) as worker:
        eventually(lambda: account(connection)[0] >= published, timeout, what=f"{published} messages in the ledger")
        read, stored, duplicate, dead, lost = account(connection)
        assert (read, lost) == (published, 0)
        assert read == stored + duplicate + dead
        yield connection
        worker.terminate()
        assert worker.wait() == 0
        assert "Traceback" not in worker.log.read_text()
        assert account(connection)[0] == asyncio.run(last_sequence(settings)) == published


def account(connection: Connection) -> tuple[int, int, int, int, int]:
    """What the ledger says: read, stored, duplicate, dead-lettered, lost."""
    row = connection.execute(
        "SELECT sum(read)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(dead_lettered)::bigint,"
        " sum(lost)::bigint FROM slate.ledger"
    ).fetchone()
    return row if row and row[0] is not None else (0, 0, 0, 0, 0)


def letters(connection: Connection) -> list[Letter]:
    return [
        Letter(*row)
        for row in connection.execute(
            "SELECT seq, stage, code, subject, payload, headers, reason, path, element FROM slate.dead_letters"
            " ORDER BY seq, element"
        )
    ]


def count(connection: Connection, query: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {query}").fetchone()
    assert row is not None
    return int(row[0])


def test_each_refusal_is_a_dead_letter_with_its_reason_and_every_neighbour_is_stored(one_partition: Settings) -> None:
    with Wire(one_partition) as wire, Wire(one_partition) as listener:
        listener.subscribe("slate.dead_letters.>")
        wire.publish("spark.usage.first", NEIGHBOUR)
        for number, bad in enumerate(REFUSED):
            wire.publish(bad.subject, bad.payload, bad.headers or header_block({"X-Number": str(number)}))
            wire.publish("spark.usage.between", NEIGHBOUR)
        with drained(one_partition, wire.published) as connection:
            found = letters(connection)
            assert [(one.seq, one.subject, one.stage, one.code) for one in found] == [
                (2 * number + 2, bad.subject, bad.stage, bad.code) for number, bad in enumerate(REFUSED)
            ]
            for number, (letter, bad) in enumerate(zip(found, REFUSED, strict=True)):
                assert letter.payload == bad.payload
                assert letter.headers == (bad.headers or header_block({"X-Number": str(number)}))
                assert bad.reason in letter.reason
                assert len(letter.reason) <= 500
            assert count(connection, "spark_usage WHERE model = 'neighbour'") == len(REFUSED) + 1
            assert account(connection)[1:4] == (len(REFUSED) + 1, 0, len(REFUSED))
            notices = [(subject, msgspec.json.decode(told)) for subject, told in listener.received(len(REFUSED))]
            assert {(subject, one["seq"], one["code"], one["reason"], one["path"]) for subject, one in notices} == {
                (f"slate.dead_letters.{one.stage}", one.seq, one.code, one.reason, one.path) for one in found
            }


def test_the_invalid_share_of_simulated_traffic_and_only_it_is_dead_lettered(settings: Settings) -> None:
    plan = Plan(start=datetime.now(UTC) - timedelta(minutes=10), messages=2000, invalid=0.5, seed=3)
    made = list(events(plan))
    with Wire(settings) as wire:
        for event in made:
            wire.publish(
                event.subject, event.payload, header_block({"Nats-Msg-Id": event.msg_id} if event.msg_id else {})
            )
    with drained(settings, wire.published) as connection:
        bad = Counter((event.subject, event.payload) for event in made if not event.valid)
        assert Counter((one.subject, one.payload) for one in letters(connection)) == bad
        assert account(connection)[1] == sum(event.valid for event in made)


def test_ten_thousand_poison_messages_in_a_row_end_as_dead_letters_between_good_neighbours(settings: Settings) -> None:
    poison = [b"", b"not JSON", b'{"model":7}', b'{"model":"m","tokensPrompt":-1}', b"[" * 10_000]
    with Wire(settings) as wire:
        wire.publish(USAGE, NEIGHBOUR)
        for number in range(10_000):
            wire.publish(USAGE, poison[number % len(poison)], header_block({"X-Number": str(number)}))
        wire.publish(USAGE, NEIGHBOUR)
    with drained(settings, wire.published) as connection:
        found = letters(connection)
        assert [(one.seq, one.payload) for one in found] == [
            (number + 2, poison[number % len(poison)]) for number in range(10_000)
        ]
        assert count(connection, "spark_usage") == 2


def test_what_publishers_could_not_deliver_is_kept_as_it_is_and_never_feeds_itself(settings: Settings) -> None:
    failed = msgspec.json.encode(
        {"subject": "spark.usage.s", "payload": {"model": "m"}, "error": "timeout", "timestamp": 1_741_964_966_535}
    )
    anything = [failed, b"", b"not JSON", b"\xff\0\xfe", b"[]", b"null", b"[" * 100_000, b"x" * 1_000_000]
    with Wire(settings) as wire, Wire(settings) as listener:
        listener.subscribe("slate.dead_letters.publisher")
        for number, payload in enumerate(anything):
            wire.publish("spark.dlq", payload, header_block({"X-Number": str(number)}))
        wire.publish(USAGE, NEIGHBOUR)
        with drained(settings, wire.published) as connection:  # which sees that the stream has not grown
            found = letters(connection)
            assert [(one.stage, one.payload) for one in found] == [("publisher", payload) for payload in anything]
            assert [one.headers for one in found] == [header_block({"X-Number": str(n)}) for n in range(len(anything))]
            assert found[0].reason == "a publisher could not deliver it: timeout"
            assert count(connection, "spark_usage") == 1
            assert len(listener.received(len(anything))) == len(anything)


def test_a_payload_of_1_mib_is_stored_and_a_larger_one_is_a_dead_letter_with_all_its_bytes(settings: Settings) -> None:
    def padded(size: int) -> bytes:
        head, tail = b'{"type":"t","payload":"', b'"}'
        return head + b"x" * (size - len(head) - len(tail)) + tail

    mib = 1 << 20
    sizes = [mib - 1, mib, mib + 1, 2 * mib - 100, 2 * mib]
    with Wire(settings) as wire:
        for size in sizes:
            wire.publish("spark.presence.s", padded(size))
            wire.publish("spark.presence.s", b'{"type":"neighbour"}')
    with drained(settings, wire.published) as connection:
        found = letters(connection)
        assert [(one.code, one.payload) for one in found] == [("too_large", padded(size)) for size in sizes[2:]]
        assert "1048577 bytes, more than 1 MiB" in found[0].reason
        stored = connection.execute(
            "SELECT length(payload #>> '{}') FROM spark_events WHERE type = 't' ORDER BY 1"
        ).fetchall()
        assert stored == [(size - 25,) for size in sizes[:2]]
        assert count(connection, "spark_events WHERE type = 'neighbour'") == len(sizes)


def test_one_bad_element_leaves_the_others_of_its_batch(settings: Settings) -> None:
    good, bad = {"kind": "good", "data": {}}, {"kind": "bad", "data": "sixty"}
    with Wire(settings) as wire:
        wire.publish(*sent(BATCH, eventId="e-1", events=[good, bad, good]))
        wire.publish(*sent(BATCH, events=[bad, bad]))
        wire.publish(*sent(BATCH, events=[good | {"sessionId": "other"}]))
        wire.publish(BATCH, b'{"events":[{"kind":"good","data":{}},{"kind":"bad","data":{"x":1e400}},7,null,[]]}')
        wire.publish(*sent(BATCH, eventId="e-1", events=[good, bad, good]))
    with drained(settings, wire.published) as connection:
        assert count(connection, "spark_telemetry WHERE kind = 'good'") == 4
        assert count(connection, "spark_telemetry") == 4
        found = letters(connection)
        assert [(one.seq, one.element, one.path.partition(".events")[2][:3]) for one in found] == [
            *[(1, 1, "[1]"), (2, 0, "[0]"), (2, 1, "[1]")],
            *[(4, 1, "[1]"), (4, 2, "[2]"), (4, 3, "[3]"), (4, 4, "[4]")],
            (5, 1, "[1]"),
        ]
        assert msgspec.json.decode(found[0].payload) == {"eventId": "e-1", "events": [bad]}
        assert account(connection)[:4] == (5, 3, 0, 2)


def test_a_batch_of_bad_elements_only_does_not_stop_the_worker(settings: Settings) -> None:
    elements = 100_000
    with Wire(settings) as wire:
        wire.publish(BATCH, b'{"events":[' + b"1," * (elements - 1) + b"1]}")
        wire.publish(BATCH, b'{"events":[{"kind":"good","data":{}}]}')
    with drained(settings, wire.published) as connection:
        assert count(connection, "slate.dead_letters") == elements
        assert count(connection, "spark_telemetry") == 1
        assert account(connection)[:4] == (2, 1, 0, 1)


STORED_SUBJECTS = [
    "spark.s",
    "spark.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.s",
    "spark." + "x" * 3500 + ".s",
    "spark." + "s" * 255,
    "spark." + "语" * 255,
    "spark." + "😀" * 255,
    "spark.\x01",
    "spark.a/b:c,d;e$f%g{h}i\"j'k\\l",
    "spark.a*b",
    "spark.a>b",
    "spark.NULL",
    "spark.dlq.s",
    "spark.DLQ",
    "spark.'; DROP TABLE spark_events; --".replace(" ", "_"),
]


def test_odd_subjects_and_session_ids_are_stored_or_refused_in_words(settings: Settings) -> None:
    with Wire(settings) as wire:
        for subject in STORED_SUBJECTS:
            wire.publish(subject, b'{"type":"t"}')
        for bad in REFUSED_SUBJECTS:
            wire.publish(bad.subject, b'{"type":"t"}')
    with drained(settings, wire.published) as connection:
        sessions = connection.execute("SELECT session_id FROM spark_events").fetchall()
        assert Counter(sessions) == Counter((subject.split(".")[-1],) for subject in STORED_SUBJECTS)
        found = letters(connection)
        assert [(one.stage, one.code) for one in found] == [(bad.stage, bad.code) for bad in REFUSED_SUBJECTS]
        for one, bad in zip(found, REFUSED_SUBJECTS, strict=True):
            assert bad.reason in one.reason
            assert re.fullmatch(r"spark\.[^\0]+", one.subject)


@pytest.mark.parametrize("subject", ["spark.usage.*", "spark.>"])
def test_a_subject_with_the_name_of_a_wildcard_is_read_like_any_other(settings: Settings, subject: str) -> None:
    with suppress(ConnectionError), Wire(settings) as wire:  # the server complains, and stores it
        wire.publish(subject, NEIGHBOUR)
    with drained(settings, 1):
        pass


def test_odd_message_ids_identify_what_they_can_and_are_refused_in_words_where_not(settings: Settings) -> None:
    blocks = [
        (header_block({"Nats-Msg-Id": ""}), 2),
        (b"NATS/1.0\r\nNats-Msg-Id:\r\n\r\n", 2),
        (b"NATS/1.0\r\njunk\r\n\r\n", 2),
        (b"NATS/1.0\r\n\r\n", 2),
        (b"garbage", 2),
        (header_block({"nats-msg-id": "lower"}), 2),
        (header_block({"Slate-Event-Id": "Ü 语 😀"}), 1),
        (header_block({"Slate-Event-Id": "x" * 255}), 1),
        (header_block({"Slate-Event-Id": "a:b\tc\"d'e"}), 1),
        (header_block({"Slate-Event-Id": "x" * 264}), 0),
        (header_block({"Slate-Event-Id": b"\xff"}), 0),
    ]
    with Wire(settings) as wire:
        for block, _ in blocks:
            for _ in range(2):
                wire.publish(USAGE, NEIGHBOUR, block)
    with drained(settings, wire.published) as connection:
        stored = sum(times for _, times in blocks)
        refused = 2 * sum(times == 0 for _, times in blocks)
        assert account(connection)[1:4] == (stored, 2 * len(blocks) - stored - refused, refused)
        assert count(connection, "spark_usage") == stored
        assert {one.code for one in letters(connection)} == {"identity"}
        assert [one.headers for one in letters(connection)] == [
            block for block, times in blocks for _ in range(2) if not times
        ]


def test_the_largest_that_each_column_and_index_takes_is_stored(settings: Settings) -> None:
    wide = "😀" * 255
    largest: list[tuple[str, bytes]] = [
        sent(f"spark.function_call.{wide}", callId=wide, name=wide, status="failed", durationMs=2**31 - 1, error=wide),
        sent(f"spark.session.connected.{wide}", model=wide, eventId=wide),
        sent(f"spark.build.unity.started.{wide}", jobId=wide, target=wide, progress=100),
        sent(f"spark.runtime.renpy.x.{wide}", type=wide, scriptName=wide, scriptContent="语" * 300_000, prompt=wide),
        sent(f"spark.preview.unity.x.{wide}", engine="unity", status="idle", frameRef=wide * 100),
        sent(f"spark.telemetry.{wide}", kind=wide, data={"k" * 1_000_000: 1}),
        sent(f"spark.usage.{wide}", model=wide, tokensPrompt=2**31 - 1, tokensCompletion=2**31 - 1),
        usage(b'"costEstimate":999999.9999994'),
        usage(b'"costEstimate":1e-16383'),
        data(b"1e308"),
        data(b"1e-16383"),
        data(b"9" * 4000),
        data(b"0." + b"1" * 16_383),
        data(b"[" * 254 + b"]" * 254),
        data(b'"' + "\u2028\ufffe\U0010ffff".encode() + b'\\u0001\\ud83d\\ude00\x7f"'),
        (BATCH, b'{"events":[' + b'{"kind":"k","data":{}},' * 40_000 + b'{"kind":"k","data":{}}]}'),
    ]
    with Wire(settings) as wire:
        for subject, payload in largest:
            wire.publish(subject, payload)
    with drained(settings, wire.published) as connection:
        assert letters(connection) == []
        assert account(connection)[1] == len(largest)
        row = connection.execute(
            "SELECT max(cost_estimate)::text, min(cost_estimate)::text FROM spark_usage"
        ).fetchone()
        assert row == ("999999.999999", "0.000000")
        assert count(connection, f"spark_function_calls WHERE call_id = '{wide}' AND duration_ms = 2147483647") == 1
        assert count(connection, "spark_telemetry") == 40_001 + 7


def test_events_at_the_edges_of_months_find_their_partition(settings: Settings) -> None:
    now = datetime.now(UTC)
    edges = [datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 3, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)]
    moments = [datetime(2020, 1, 1, tzinfo=UTC), now + timedelta(minutes=4)]
    moments += [edge + timedelta(microseconds=off) for edge in edges[1:] for off in (-1, 0, 1)]
    with Wire(settings) as wire:
        for at in moments:
            micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            wire.publish("spark.s", b'{"type":"t","timestamp":%d.%03d}' % divmod(micros, 1000))
    with drained(settings, wire.published) as connection:
        assert letters(connection) == []
        found = connection.execute("SELECT ts, tableoid::regclass::text FROM spark_events ORDER BY ts").fetchall()
        assert found == [(at, f"spark_events_{at:%Y_%m}") for at in sorted(moments)]


@pytest.mark.parametrize("partitions", [1, 8])
def test_every_kind_is_stored_between_poison_of_its_own_kind(make_settings: MakeSettings, partitions: int) -> None:
    settings = make_settings(partitions=partitions)
    with Wire(settings) as wire:
        for subject, fields in SOUND:
            for payload in (b"poison", msgspec.json.encode(fields), b"[]", b'{"timestamp":0}'):
                wire.publish(subject, payload)
    with drained(settings, wire.published) as connection:
        assert account(connection)[1:4] == (len(SOUND), 0, 3 * len(SOUND))
        assert len(letters(connection)) == 3 * len(SOUND)
