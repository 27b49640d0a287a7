import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from realtime.simulator import SimulatedEvent
from realtime.traces import Request, TraceError, read, usage_events

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
LINES = (
    "2023-11-16 18:17:03.9799600,4808,10\r\n"
    "2023-11-16 18:17:04.0319600,3180,8\r\n"
    "2023-11-16 18:17:04.0319600,3180,8\r\n"
    "2023-11-16 18:17:13.9799600,0,27"
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + LINES, newline="")
    return path


def body(event: SimulatedEvent) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(event.payload, parse_float=Decimal)
    return parsed


def test_a_trace_of_seven_fractional_digits_and_windows_line_ends_is_read(trace: Path) -> None:
    requests = list(read(trace))
    assert requests[0] == Request(2, datetime(2023, 11, 16, 18, 17, 3, 979960, UTC), 4808, 10)
    assert [request.line for request in requests] == [2, 3, 4, 5]


def test_other_columns_another_order_a_mark_blank_lines_and_time_zones_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "\ufeffGeneratedTokens,Model,TIMESTAMP,ContextTokens\n\n7,m,2024-05-10T02:00:00+02:00,5\n\n", "utf-8"
    )
    assert list(read(path)) == [Request(3, datetime(2024, 5, 10, tzinfo=UTC), 5, 7)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("yesterday,1,2", "line 3, column TIMESTAMP: 'yesterday' is not a time"),
        (",1,2", "line 3, column TIMESTAMP: '' is not a time"),
        ("2023-11-16 18:17:03,-1,2", "line 3, column ContextTokens: '-1' is not a whole number"),
        ("2023-11-16 18:17:03,1.5,2", "line 3, column ContextTokens: '1.5' is not a whole number"),
        ("2023-11-16 18:17:03,²,2", "line 3, column ContextTokens: '²' is not a whole number"),
        ("2023-11-16 18:17:03,1,", "line 3, column GeneratedTokens: '' is not a whole number"),
        ("2023-11-16 18:17:03,1,2147483648", "line 3, column GeneratedTokens: '2147483648' is not"),
        (f"2023-11-16 18:17:03,1,{'9' * 5000}", "line 3, column GeneratedTokens"),
        ("2023-11-16 18:17:03,1", "line 3: ends before column GeneratedTokens"),
        ('2023-11-16 18:17:03,1,"2', "line 3: unexpected end of data"),
    ],
)
def test_a_bad_line_is_named_with_its_column(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEADER}2023-11-16 18:17:03,1,2\r\n{line}", "utf-8")
    requests = read(path)
    assert next(requests).context_tokens == 1
    with pytest.raises(TraceError) as caught:
        next(requests)
    assert f"{path}, {says}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: no column TIMESTAMP"),
        (b"TIMESTAMP,ContextTokens\n", "line 1: no column GeneratedTokens"),
        (HEADER.encode() + b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=says):
        list(read(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"missing\.csv: No such file"):
        list(read(tmp_path / "missing.csv"))


def test_a_request_becomes_usage_at_the_traces_own_time(trace: Path) -> None:
    event = next(usage_events(read(trace), model="gpt-realtime-2.1-mini"))
    assert event.subject == f"spark.usage.{body(event)['sessionId']}"
    assert body(event) == {
        "sessionId": body(event)["sessionId"],
        "eventId": event.identity,
        "timestamp": 1_700_158_623_979,
        "model": "gpt-realtime-2.1-mini",
        "tokensPrompt": 4808,
        "tokensCompletion": 10,
        "costEstimate": Decimal("0.002909"),
    }
    assert event.msg_id == event.identity


def test_replaying_a_file_gives_the_same_events_whatever_the_speed(trace: Path) -> None:
    slow, fast = (list(usage_events(read(trace), speed=speed)) for speed in (1.0, 50.0))
    assert [event.payload for event in slow] == [event.payload for event in fast]
    assert [event.due for event in slow] == pytest.approx([0.0, 0.052, 0.052, 10.0])
    assert [event.due for event in fast] == pytest.approx([0.0, 0.00104, 0.00104, 0.2])


def test_lines_that_are_alike_are_different_events(trace: Path) -> None:
    assert len({event.identity for event in usage_events(read(trace))}) == 4


def test_more_sessions_do_not_change_identities(trace: Path) -> None:
    few, many = (list(usage_events(read(trace), sessions=sessions)) for sessions in (1, 1000))
    assert [event.identity for event in few] == [event.identity for event in many]
    assert len({event.subject for event in few}) == 1
    assert len({event.subject for event in many}) > 1


def test_a_shifted_replay_happens_as_it_is_published_and_is_new_each_time(trace: Path) -> None:
    starts = [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)]
    first, second = (list(usage_events(read(trace), speed=10.0, start=start)) for start in starts)
    start_ms = starts[0].timestamp() * 1000
    assert [body(event)["timestamp"] - start_ms for event in first] == [0, 5, 5, 1000]
    assert not {event.identity for event in first} & {event.identity for event in second}
