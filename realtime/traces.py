"""A recorded trace of model requests, replayed as usage events.

A trace is CSV with the columns TIMESTAMP (UTC unless it says otherwise), ContextTokens and GeneratedTokens,
like those of the Azure Public Dataset.
"""

import csv
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from connectors.errors import SlateError
from realtime.prices import cost
from realtime.simulated import SimulatedEvent

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder(decimal_format="number").encode


class TraceError(SlateError):
    """A trace cannot be read; the message names file, line and column."""


class Request(NamedTuple):
    """One request of a trace."""

    line: int
    """Its line in the file; the header is line 1."""
    at: datetime
    context_tokens: int
    generated_tokens: int


def read(path: Path) -> Iterator[Request]:
    """The requests of a trace file, read as they are asked for.

    Raises:
        TraceError: the file cannot be read, or a line is not as it should be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            for column in COLUMNS:
                if column not in header:
                    raise TraceError(f"{path}, line 1: no column {column}; a trace begins with {','.join(COLUMNS)}")
            places = [header.index(column) for column in COLUMNS]
            for values in lines:
                if values:
                    yield _request(path, lines.line_num, values, places)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise TraceError(f"{path}, line {lines.line_num}: {error}") from None


def _request(path: Path, line: int, values: list[str], places: list[int]) -> Request:
    if len(values) <= max(places):
        missing = next(name for name, place in zip(COLUMNS, places, strict=True) if place >= len(values))
        raise TraceError(f"{path}, line {line}: ends before column {missing}")
    when, context, generated = (values[place] for place in places)
    return Request(
        line,
        _time(path, line, when),
        _count(path, line, COLUMNS[1], context),
        _count(path, line, COLUMNS[2], generated),
    )


def _time(path: Path, line: int, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise TraceError(
            f"{path}, line {line}, column {COLUMNS[0]}: {text!r} is not a time like 2023-11-16 18:17:03.97996"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _count(path: Path, line: int, column: str, text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and int(digits) < 2**31):
        raise TraceError(f"{path}, line {line}, column {column}: {text!r} is not a whole number from 0 to 2^31-1")
    return int(digits)


def usage_events(
    requests: Iterator[Request],
    *,
    speed: float = 1.0,
    model: str = "gpt-realtime-2.1",
    sessions: int = 20,
    start: datetime | None = None,
) -> Iterator[SimulatedEvent]:
    """Each request as a `spark.usage` message, due when the trace had it, `speed` times as fast.

    Event time is the trace's own; with `start` (aware) the first request happens then, and the others as far
    behind it as they are published. An event's id follows from its line and time alone: the same file again
    is the same events, while a replay with another `start` is new ones.
    """
    first: datetime | None = None
    for line, at, context, generated in requests:
        first = first or at
        due = (at - first).total_seconds() / speed
        event_time = at if start is None else start + timedelta(seconds=due)
        time_ms = (event_time - _EPOCH) // timedelta(milliseconds=1)
        identity = _identity(f"{line} {time_ms} {context} {generated}")
        session_id = f"trace-{int(identity[-8:], 16) % sessions:04}"
        body = {
            "sessionId": session_id,
            "timestamp": time_ms,
            "eventId": identity,
            "model": model,
            "tokensPrompt": context,
            "tokensCompletion": generated,
            "costEstimate": cost(model, context, generated),
        }
        yield SimulatedEvent(due, f"spark.usage.{session_id}", _encode(body), identity, "usage", identity)


def _identity(text: str) -> str:
    return f"trace-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
