"""What people see: sessions and their timelines, calls, scripts, previews, builds, cost, errors, windows, alerts.

Each read is of what `user` may see: of a user's own sessions, as `spark_sessions.user_id` says, or of everything where
`user` is None, for administrators. `encode` makes JSON of what they return; money and all numbers keep their digits.

Lists come in pages, the latest first (a timeline: the earliest first); `Page.next` is where the next one begins. Every
row that was there at the first page comes once, whatever arrives meanwhile.

All raise `RefusedReadError` for what makes no sense, and what `connectors.reads.Reader.rows` raises.
"""

import base64
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, TypeVar, get_args
from uuid import UUID

import msgspec

from connectors.errors import SlateError
from connectors.reads import Reader
from realtime.query_rows import (
    Alert,
    AlertChange,
    Build,
    DeadLetter,
    DeadLetterCount,
    ErrorRate,
    Figures,
    FunctionCall,
    Minute,
    Moment,
    Page,
    Preview,
    Script,
    Session,
    SessionTotals,
    Signal,
    Status,
    Usage,
    WholeScript,
    Window,
)

MOST: Final = 500
"""Rows of a page, minutes and windows, at most."""
MOST_DAYS: Final = 366
MOST_ROWS: Final = 5000
"""Rows of what does not come in pages, at most; of usage the dearest of each day come first."""

By = Literal["day", "model", "user"]
T = TypeVar("T")

_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)


class RefusedReadError(SlateError):
    """What is asked for makes no sense; says what would."""


def encode(answer: Any) -> bytes:
    """JSON of what a read returns: money as numbers with all their digits, times as RFC 3339 in UTC."""
    return _encoder.encode(answer)


def _bigint(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise ValueError("not an id")
    return int(text)


_ORDERS: Final[Mapping[str, tuple[str, str, Callable[[str], object]]]] = {
    "sessions": ("started_at", "id", UUID),
    "timeline": ("ts", "place", str),
    "function_calls": ("ts", "id", _bigint),
    "scripts": ("created_at", "id", _bigint),
    "previews": ("ts", "id", _bigint),
    "builds": ("created_at", "id", str),
    "alert_history": ("created_at", "id", _bigint),
    "dead_letters": ("received_at", "id", _bigint),
}
"""What each list is in order of: a time, and what tells rows of the same time apart, and how that is read."""


async def sessions(
    reader: Reader, user: UUID | None, *, active: bool = False, cursor: str | None = None, limit: int = 50
) -> Page[Session]:
    """Sessions that have begun, or those that are active now."""
    parameters = {"user": user, "active": active, **_place("sessions", cursor)}
    return await _page(reader, "sessions", "sessions", parameters, Session, limit)


async def session(reader: Reader, user: UUID | None, session_id: str, *, fresh: bool = False) -> SessionTotals | None:
    """A session; None where there is none, or it is another's. `fresh` is that of `Reader.rows`."""
    rows = await _rows(reader, "session", {"user": user, "session": session_id}, SessionTotals, fresh=fresh)
    return rows[0] if rows else None


async def timeline(
    reader: Reader, user: UUID | None, session_id: str, *, cursor: str | None = None, limit: int = MOST
) -> Page[Moment]:
    """What happened in a session; empty where there is none, or it is another's."""
    place = _place("timeline", cursor)
    kind, _, id_ = (place["id"] or "").partition(":")
    parameters = {"user": user, "session": session_id, "ts": place["ts"] or _BEGINNING, "kind": kind, "id": id_}
    return await _page(reader, "timeline", "timeline", parameters, Moment, limit)


async def function_calls(
    reader: Reader,
    user: UUID | None,
    *,
    session_id: str | None = None,
    name: str | None = None,
    status: Status | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[FunctionCall]:
    """Function calls, of one function or outcome where these are given."""
    parameters = {
        "user": user,
        "session": session_id,
        "name": name,
        "status": status,
        **_place("function_calls", cursor),
    }
    file = "function_calls"
    if user is not None or session_id is not None:
        file = "function_calls_of"
    elif name is not None:
        file = "function_calls_by_name"
    return await _page(reader, "function_calls", file, parameters, FunctionCall, limit)


async def scripts(
    reader: Reader, user: UUID | None, *, session_id: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Script]:
    """Scripts without their content."""
    return await _list(reader, "scripts", user, session_id, cursor, limit, Script)


async def script(reader: Reader, user: UUID | None, script_id: int) -> WholeScript | None:
    """A script with its content; None where there is none, or it is another's."""
    if not 0 <= script_id < 1 << 63:
        return None
    rows = await _rows(reader, "script", {"user": user, "id": script_id}, WholeScript)
    return rows[0] if rows else None


async def previews(
    reader: Reader, user: UUID | None, *, session_id: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Preview]:
    """Steps of previews."""
    return await _list(reader, "previews", user, session_id, cursor, limit, Preview)


async def builds(
    reader: Reader, user: UUID | None, *, session_id: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Build]:
    """Build jobs."""
    return await _list(reader, "builds", user, session_id, cursor, limit, Build)


async def usage(
    reader: Reader, user: UUID | None, *, since: date, until: date, by: Collection[By] = ("day", "model")
) -> list[Usage]:
    """Tokens and cost of the days (UTC) from `since` until before `until`."""
    if not set(by) <= set(get_args(By)):
        raise RefusedReadError(f"usage is by {', '.join(get_args(By))}")
    grouped = {f"by_{one}": one in by for one in get_args(By)}
    return await _rows(reader, "usage", {"user": user, **_days(since, until), **grouped}, Usage)


async def error_rates(reader: Reader, user: UUID | None, *, since: date, until: date) -> list[ErrorRate]:
    """Outcomes of calls by day and function, of the days (UTC) from `since` until before `until`."""
    file = "error_rates" if user is None else "error_rates_of"
    return await _rows(reader, file, {"user": user, **_days(since, until)}, ErrorRate)


async def windows(
    reader: Reader, *, signal: Signal, since: datetime, until: datetime, seconds: Literal[60, 300] = 60
) -> list[Window]:
    """Windows that begin from `since` until before `until`, of all users: for administrators."""
    if signal not in get_args(Signal) or seconds not in (60, 300):
        raise RefusedReadError(f"signal is one of {', '.join(get_args(Signal))}, seconds 60 or 300")
    if since.tzinfo is None or until.tzinfo is None:
        raise RefusedReadError("times must have a zone, such as 2026-03-01T12:00:00Z")
    if not timedelta() < until - since <= MOST * timedelta(seconds=seconds):
        raise RefusedReadError(f"between two times there must be 1 to {MOST} windows")
    parameters = {"signal": signal, "since": since, "until": until, "seconds": seconds, "most": 10 * MOST_ROWS}
    return await _rows(reader, "windows", parameters, Window)


async def minutes(reader: Reader, *, now: datetime, minutes: int = 60) -> list[Minute]:
    """The last minutes, the earliest first, that of `now` included, of all users: for administrators."""
    if not 1 <= minutes <= MOST:
        raise RefusedReadError(f"minutes must be 1 to {MOST}")
    return await _rows(reader, "minutes", {"now": now, "minutes": minutes}, Minute)


async def alerts(reader: Reader, user: UUID | None) -> list[Alert]:
    """Alerts that fire or are about to, the gravest first; a user sees those on himself and on his sessions."""
    return await _rows(reader, "alerts", {"user": user}, Alert)


async def alert_history(
    reader: Reader, user: UUID | None, *, cursor: str | None = None, limit: int = 50
) -> Page[AlertChange]:
    """What was decided about alerts, as `alerts` are seen."""
    file = "alert_history" if user is None else "alert_history_of"
    parameters = {"user": user, **_place("alert_history", cursor)}
    return await _page(reader, "alert_history", file, parameters, AlertChange, limit)


async def dead_letters(
    reader: Reader, *, waiting: bool = True, cursor: str | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """Dead letters that wait for a replay, or all: for administrators."""
    parameters = {"waiting": waiting, **_place("dead_letters", cursor)}
    return await _page(reader, "dead_letters", "dead_letters", parameters, DeadLetter, limit)


async def dead_letter_counts(reader: Reader) -> list[DeadLetterCount]:
    """Dead letters that wait for a replay, the most frequent first: for administrators."""
    return await _rows(reader, "dead_letter_counts", {}, DeadLetterCount)


async def figures(reader: Reader, user: UUID | None, *, now: datetime, stream: str) -> Figures:
    """Figures at `now`, of a user's sessions or of all; `stream` is the setting of that name."""
    file = "figures" if user is None else "figures_of"
    (row,) = await _rows(reader, file, {"user": user, "now": now, "stream": stream}, Figures)
    return row


async def _rows(
    reader: Reader, file: str, parameters: dict[str, Any], into: type[T], *, fresh: bool = False
) -> list[T]:
    for value in parameters.values():
        if isinstance(value, str) and not _storable(value):
            raise RefusedReadError("a text holds NUL or half a character, which nothing stored does")
    return await reader.rows(f"queries/{file}.sql", {"most": MOST_ROWS, **parameters}, into, fresh=fresh)


async def _list(
    reader: Reader,
    name: str,
    user: UUID | None,
    session_id: str | None,
    cursor: str | None,
    limit: int,
    into: type[T],
) -> Page[T]:
    parameters = {"user": user, "session": session_id, **_place(name, cursor)}
    file = name if user is None and session_id is None else f"{name}_of"
    return await _page(reader, name, file, parameters, into, limit)


async def _page(reader: Reader, name: str, file: str, parameters: dict[str, Any], into: type[T], limit: int) -> Page[T]:
    if not 1 <= limit <= MOST:
        raise RefusedReadError(f"limit must be 1 to {MOST}")
    rows = await _rows(reader, file, {**parameters, "limit": limit + 1}, into)
    return Page(rows[:limit], _cursor(name, rows[limit - 1]) if len(rows) > limit else None)


def _cursor(name: str, row: object) -> str:
    time, id_, _ = _ORDERS[name]
    place = name, (getattr(row, time) - _EPOCH) // _US, str(getattr(row, id_))
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(name: str, cursor: str | None) -> dict[str, Any]:
    """Where a page begins, as parameters; they are None at the beginning of the list."""
    if cursor is None:
        return {"ts": None, "id": None}
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        its, us, text = place = msgspec.json.decode(data, type=tuple[str, int, str])
        canonical = base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")
        if its == name and canonical == cursor and _storable(text):
            return {"ts": _EPOCH + us * _US, "id": _ORDERS[name][2](text)}
    except (ValueError, OverflowError, msgspec.MsgspecError):
        pass
    raise RefusedReadError(f"this cursor is not one that {name} gave: take `next` of the page before, as it is")


def _storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _days(since: date, until: date) -> dict[str, date]:
    if not timedelta() < until - since <= timedelta(days=MOST_DAYS):
        raise RefusedReadError(f"from `since` until before `until` there must be 1 to {MOST_DAYS} days")
    return {"since": since, "until": until}
