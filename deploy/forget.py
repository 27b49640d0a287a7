"""`slate forget` and `slate export`: what is due to a person whose data it is."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from connectors.admin_log import disguised, logged
from connectors.settings import Settings
from flows.export import export
from flows.forget import Forgetting, Report

_out = Console(width=None if sys.stdout.isatty() else 200, highlight=False)

User = Annotated[UUID, typer.Option("--user", metavar="UUID", help="whose data")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say how much there is")]


def forget_command(
    user: User,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete all data of a user: sessions, rows, messages in the stream, dead letters, previews, keys in Redis.

    Workers may run; they are waited for. It refuses while a session of the user is live. Killed or stopped by Ctrl-C,
    it is to be run again, and goes on. docs/data.md says what is not deleted. Exit code 1: not all is deleted.
    """
    settings = Settings.load()
    if dry_run:
        with _progress() as report:
            counted = Forgetting(settings, user, report, dry_run=True)
            asyncio.run(counted.run())
        _show(counted.counts, "There is nothing of this user.")
        return
    _confirm(user, yes=yes)
    with logged(settings, "forget", {"user": disguised(str(user))}) as run, _progress() as report:
        work = Forgetting(settings, user, report)
        run.counts = work.counts
        asyncio.run(work.run())
    _show(work.counts, "There was nothing of this user.")
    _out.print("Deleted. Backups, logs and what others were told are not: see docs/data.md.")


def export_command(
    user: User,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.zip|DIR", help="what is written; it must not be there")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Write all data of a user that is stored, as JSON lines and pictures: docs/data.md has the format.

    The file has mode 0600. What is in the stream and not stored yet is not in it.
    """
    settings = Settings.load()
    if dry_run:
        with _progress() as report:
            counts = export(settings, user, None, report)
        _show(counts, "There is nothing of this user.")
        return
    if to is None:
        raise typer.BadParameter("name a file that ends with .zip, or a directory", param_hint="--to")
    with logged(settings, "export", {"user": disguised(str(user))}) as run, _progress() as report:
        run.counts = export(settings, user, to, report)
    _show(run.counts, "There is nothing of this user.")
    _out.print(f"Written to {to}.", markup=False, soft_wrap=True)


def _confirm(user: UUID, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to ask: say --yes", param_hint="--yes")
    if typer.prompt("This cannot be undone. Type the id of the user again") != str(user):
        _out.print("That is another one; nothing is deleted.")
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Report]:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Beginning", total=None)

        def report(what: str, done: int, total: int | None) -> None:
            of = "" if total is None else f" of {total:,}"
            progress.update(task, description=f"{what}: {done:,}{of}" if done else what)

        yield report


def _show(counts: Mapping[str, int], nothing: str) -> None:
    table = Table("what", "how many")
    for name, n in sorted(counts.items()):
        table.add_row(name, f"{n:,}")
    _out.print(table if any(counts.values()) else nothing)
