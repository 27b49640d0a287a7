"""Whatever comes in whatever order, however it is cut and whoever is killed, totals and windows are what SQL says."""

import calendar
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.messages import NatsSourceMessage
from connectors.settings import Settings
from flows.fold import bin_of
from tests.support.messages import USER, header_block
from tests.support.rollups import pipeline, signal_differences, window_differences
from tests.support.stack import Stack

PARTITIONS = 3
NOW_MS = calendar.timegm((2028, 3, 1, 0, 2, 0)) * 1000
"""Two minutes after midnight after a leap day: what is late is of February."""
DAY_MS = 86_400_000
LATE_MS = [0, 1, 59_999, 60_000, 119_999, 120_000, 120_001, 300_000, DAY_MS, DAY_MS + 119_999, 2 * DAY_MS, 7 * DAY_MS]

ids = st.sampled_from([None, "a", "b", "c"])
times = st.sampled_from(LATE_MS).map(lambda late: NOW_MS - late)
counts = st.sampled_from([0, 1, 7, 2**31 - 1])
costs = st.sampled_from(["0", "0.000001", "0.0000005", "0.00000049", "0.0123456789", "1e-7", "999999.999999", "12.5"])


@st.composite
def messages(draw: st.DrawFn) -> tuple[int, NatsSourceMessage]:
    """A partition and a message; calls of a session are in one partition, other identities may be in several."""
    what = draw(
        st.sampled_from(
            ["usage", "call", "call", "call", "old call", "event", "preview", "telemetry", "bad", "late bad"]
        )
    )
    session = draw(st.sampled_from(["s0", "s1", "s2"]))
    partition = int(session[1]) if "call" in what else draw(st.integers(0, PARTITIONS - 1))
    body: dict[str, Any] = {"timestamp": draw(times), "eventId": draw(ids)}
    subject = f"spark.usage.{session}"
    match what:
        case "usage":
            user = draw(st.sampled_from([None, USER]))
            body |= {"model": draw(st.sampled_from(["m", "n"])), "tokensPrompt": draw(counts), "userId": user}
            body |= {"tokensCompletion": draw(counts), "costEstimate": msgspec.Raw(draw(costs).encode())}
        case "call":
            subject = f"spark.function_call.{session}"
            body |= {"callId": draw(st.sampled_from(["1", "2"])), "name": draw(st.sampled_from(["f", "g"]))}
            body |= {"status": draw(st.sampled_from(["success", "failed"]))}
            body |= {"durationMs": draw(st.sampled_from([None, 0, 1, 2, 1000, 2**31 - 1]))}
        case "old call":
            subject = f"spark.function_call.{session}"
            body |= {"type": "function_call", "functionName": "f", "result": {"success": draw(st.booleans())}}
        case "event":
            subject = f"spark.thing.{session}"
            body |= {"type": draw(st.sampled_from(["t", "u"]))}
        case "preview":
            subject = f"spark.preview.unity.x.{session}"
            meta = draw(st.sampled_from([{"cache": "hit"}, {"cache": "miss"}, {"cache": 7}, {"a": "cache"}, None]))
            body |= {"engine": "unity", "status": draw(st.sampled_from(["ready", "error"])), "meta": meta}
        case "telemetry":
            subject = f"spark.telemetry.batch.{session}"
            body |= {"events": draw(st.lists(st.sampled_from([{"kind": "k", "data": {}}, {}]), min_size=1, max_size=3))}
        case "bad":
            body |= {"model": 7}
        case "late bad":
            body |= {"model": "m", "timestamp": 1}
    headers = header_block({"Nats-Msg-Id": draw(st.sampled_from(["h", "i"]))}) if draw(st.booleans()) else b""
    return partition, NatsSourceMessage(subject, msgspec.json.encode(body), 0, NOW_MS * 1_000_000, headers)


steps = st.tuples(
    st.sampled_from(["ingest", "count", "count two", "crash before", "crash after"]),
    st.integers(0, PARTITIONS - 1),
    st.integers(1, 6),
)


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[Settings]:
    with stack.provide() as found:
        yield found


def bins(durations: list[int]) -> dict[str, int]:
    return dict(Counter(str(bin_of(ms)) for ms in durations))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(those=st.lists(messages(), min_size=1, max_size=40), plan=st.lists(steps, max_size=30))
def test_totals_and_windows_equal_their_recomputation_in_sql(
    database: Settings, those: list[tuple[int, NatsSourceMessage]], plan: list[tuple[str, int, int]]
) -> None:
    with pipeline(database, PARTITIONS) as line:
        for partition, message in those:
            line.publish(partition, message)
        for what, partition, most in plan:
            match what:
                case "ingest":
                    line.ingest(partition, most)
                case "count":
                    line.count([(partition, most)])
                case "count two":
                    line.count([(partition, most), ((partition + 1) % PARTITIONS, most), (partition, most)])
                case _:
                    line.count([(partition, most)], crash=what.split()[1])
        line.finish()
        assert line.differences() == []
        assert window_differences(line.connection, bins) == []
        assert signal_differences(line.connection) == []
        left = line.connection.execute(
            "SELECT (SELECT count(*) FROM slate.skipped), (SELECT count(*) FROM slate.call_changes)"
        ).fetchone()
        assert left == (0, 0), "what is counted is forgotten"


def test_a_day_ends_at_midnight_utc_also_on_31_december_and_on_a_leap_day(database: Settings) -> None:
    midnights = [datetime(2025, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)]
    with pipeline(database, 1) as line:
        for midnight in midnights:
            at = calendar.timegm(midnight.timetuple()) * 1000
            for ms in (at - 1, at):
                body = {"type": "t", "timestamp": ms}
                line.publish(0, NatsSourceMessage("spark.x.s", msgspec.json.encode(body), 0, NOW_MS * 1_000_000))
        line.finish()
        rows = line.connection.execute("SELECT day::text, event_count FROM spark_events_daily ORDER BY 1").fetchall()
        assert rows == [("2024-02-28", 1), ("2024-02-29", 2), ("2024-03-01", 1), ("2024-12-31", 1), ("2025-01-01", 1)]


def test_tokens_and_money_are_exact_beyond_32_bits_and_beyond_a_double(database: Settings) -> None:
    body = b'{"model":"m","tokensPrompt":2147483647,"tokensCompletion":2147483647,"costEstimate":0.123457}'
    with pipeline(database, 1) as line:
        for _ in range(1000):
            line.publish(0, NatsSourceMessage("spark.usage.s", body, 0, NOW_MS * 1_000_000))
        line.finish()
        row = line.connection.execute(
            "SELECT tokens_prompt, tokens_completion, cost_estimate::text FROM spark_usage_daily"
        ).fetchone()
        assert row == (2_147_483_647_000, 2_147_483_647_000, "123.457000")


def test_a_total_beyond_its_column_hurts_only_itself(database: Settings) -> None:
    dear = b'{"model":"dear","costEstimate":999999.999999}'
    with pipeline(database, 1) as line:
        for _ in range(101):  # numeric(14,6) holds a hundred of them
            line.publish(0, NatsSourceMessage("spark.usage.s", dear, 0, NOW_MS * 1_000_000))
        line.publish(0, NatsSourceMessage("spark.usage.s", b'{"model":"m"}', 0, NOW_MS * 1_000_000))
        line.finish()
        rows = line.connection.execute("SELECT model FROM spark_usage_daily").fetchall()
        assert rows == [("m",)]
