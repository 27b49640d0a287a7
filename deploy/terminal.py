"""What commands share: times as people write them, errors in sentences, text that is safe to print."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import typer

from connectors.errors import ConnectionFailedError, SlateError

_AGO = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def an_age(text: str) -> timedelta:
    """A length of time: `30m`, `2h`, `7d`.

    Raises:
        typer.BadParameter: it is none.
    """
    if (found := _AGO.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text!r} is no length of time such as 30m, 2h, 1d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def a_time(text: str) -> datetime:
    """A moment: `30m` ago, or ISO 8601 (UTC unless it says otherwise).

    Raises:
        typer.BadParameter: it is none.
    """
    if _AGO.fullmatch(text):
        return datetime.now(UTC) - an_age(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an age such as 30m, 2h, 1d nor an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def explained() -> Iterator[None]:
    """Say in a sentence what is wrong with the database."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise ConnectionFailedError(f"PostgreSQL: {str(error).strip()}; check SLATE_DB_HOST") from None
    except psycopg.Error as error:
        raise SlateError(f"PostgreSQL: {str(error).strip()}; run `slate migrate`") from None


def harmless(text: str) -> str:
    """Text whose control characters are escaped: what a stranger published must not steer the reader's terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
