"""`slate audit`: holds the daily totals against the tables."""

import sys
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from connectors.admin_log import logged
from connectors.settings import Settings
from flows.audit import Difference, audit

_SHOWN = 50
_COLUMNS = {
    "usage": ("tokens_prompt", "tokens_completion", "cost_estimate"),
    "errors": ("success_count", "error_count", "error_rate"),
    "events": ("event_count",),
}


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date like 2026-03-01") from None


Day = Annotated[date | None, typer.Option(parser=_date, metavar="DATE", help="this day only (UTC)")]
Since = Annotated[date | None, typer.Option(parser=_date, metavar="DATE", help="this day and all after it")]


def audit_command(
    day: Day = None,
    since: Since = None,
    repair: Annotated[bool, typer.Option("--repair", help="put right what differs, a transaction a day")] = False,
) -> None:
    """Compare the daily totals with the rows that they are counted from; by default of yesterday and today.

    Exit code 0: no difference, or all repaired. 1: there are some. The workers may run meanwhile.
    """
    if day is not None and since is not None:
        raise typer.BadParameter("name a day or the first of several, not both", param_hint="--day, --since")
    today = datetime.now(UTC).date()
    first = day or since or today - timedelta(days=1)
    last = day or today
    if first > last:
        raise typer.BadParameter(f"{first} is still to come", param_hint="--since")
    out = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    settings = Settings.load()
    told = {"since": str(first), "until": str(last)}
    run = logged(settings, "audit --repair", told) if repair else nullcontext()
    with (
        run as log,
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress,
    ):
        task = progress.add_task("Auditing", total=(last - first).days + 1)
        found = list(
            audit(
                settings,
                first,
                last + timedelta(days=1),
                repair=repair,
                on_day=lambda _: progress.advance(task),
            )
        )
        if log is not None:
            log.counts["repaired"] = len(found)
    days = str(first) if first == last else f"{first} to {last}"
    if not found:
        out.print(f"No difference: {days}.")
        return
    out.print(_table(found[:_SHOWN]), markup=False)
    if len(found) > _SHOWN:
        out.print(f"and {len(found) - _SHOWN:,} more")
    out.print(f"{len(found):,} totals {'differed, and are right now' if repair else 'differ'}: {days}.")
    if not repair:
        out.print("`slate audit --repair` puts them right.", markup=False)
        raise typer.Exit(1)


def _table(found: list[Difference]) -> Table:
    table = Table("day", "table", "key", "column", "is", "should be")
    for one in found:
        for place, column in enumerate(_COLUMNS[one.rollup]):
            counted = one.counted[place] if one.counted else None
            wanted = one.wanted[place] if one.wanted else None
            if counted != wanted:
                key = f"{one.key} {one.model}".strip()
                table.add_row(str(one.day), f"spark_{one.rollup}_daily", key, column, _text(counted), _text(wanted))
    return table


def _text(number: Decimal | None) -> str:
    return "no row" if number is None else f"{number:,f}"
