"""`slate log`: who ran which administrative command, and what came of it."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from connectors.link import open_connection
from connectors.settings import Settings
from connectors.sql import read
from deploy.terminal import a_time, explained, harmless

_out = Console(width=None if sys.stdout.isatty() else 240, highlight=False)


def log_command(
    since: Annotated[datetime, typer.Option(parser=a_time, metavar="TIME", help="30d ago, or an ISO time")] = "30d",  # type: ignore[assignment]  # typer parses it
    limit: Annotated[int, typer.Option(min=1, help="at most this many")] = 50,
) -> None:
    """Show administrative commands, the latest first: when, who, what, and what came of it.

    One without an end was killed, or is under way. Ids of users and sessions are shown as their SHA-256.
    """
    with explained(), open_connection(Settings.load(), "slate-log") as connection:
        rows = connection.execute(read("admin_log/list.sql"), {"since": since, "most": limit}).fetchall()
    table = Table("began (UTC)", "took", "who", "role", "command", "came of it")
    for began, ended, command, arguments, os_user, host, role, outcome, error, counts in rows:
        table.add_row(
            f"{began.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "" if ended is None else f"{(ended - began).total_seconds():.1f} s",
            harmless(f"{os_user}@{host}"),
            harmless(role),
            harmless(f"{command} {_words(arguments)}".strip()),
            harmless(f"{outcome or 'no end'} {error or ''} {_words(counts or {})}".strip()),
        )
    _out.print(table if rows else "No commands.", markup=False)
    if len(rows) == limit:
        _out.print(f"The latest {limit}; --limit shows more.")


def _words(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
