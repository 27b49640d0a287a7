"""`slate dead-letters`: look at what could not be stored, and replay it after a fix."""

import asyncio
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from connectors.admin_log import disguised, logged
from connectors.errors import SlateError
from connectors.settings import Settings
from deploy.terminal import a_time, explained, harmless
from flows.dead_letters import Filter, Letter, find, replay, verdict

app = typer.Typer(no_args_is_help=True, help="Look at dead letters, and replay them after a fix.")
_out = Console(width=None if sys.stdout.isatty() else 200)

Stage = Annotated[str | None, typer.Option(help="decode, subject, validate, store or publisher")]
Code = Annotated[str | None, typer.Option(help="kind of fault, such as wrong_type or event_time")]
Reason = Annotated[str | None, typer.Option(help="part of the reason")]
Subject = Annotated[str | None, typer.Option(help="subject, with NATS wildcards: 'spark.usage.>'")]
Since = Annotated[
    datetime | None, typer.Option(parser=a_time, metavar="TIME", help="received since: 30m, 2h, ISO time")
]
Until = Annotated[datetime | None, typer.Option(parser=a_time, metavar="TIME", help="received before")]
Replayed = Annotated[bool, typer.Option("--replayed", help="those replayed already, too")]
Limit = Annotated[int, typer.Option(min=1, help="at most this many")]
Ids = Annotated[list[int] | None, typer.Argument(help="ids of dead letters")]


def _find(which: Filter, limit: int | None) -> list[Letter]:
    with explained():
        return list(find(Settings.load(), which, limit))


@app.command("list")
def list_(
    stage: Stage = None,
    code: Code = None,
    reason: Reason = None,
    subject: Subject = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = False,
    limit: Limit = 50,
) -> None:
    """List dead letters, oldest first."""
    which = Filter(stage=stage, code=code, reason=reason, subject=subject, since=since, until=until, replayed=replayed)
    letters = _find(which, limit)
    table = Table("id", "received (UTC)", "stage", "code", "subject", "reason", "path", "replayed")
    for letter in letters:
        table.add_row(
            str(letter.id),
            f"{letter.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            letter.stage,
            letter.code,
            letter.subject[:80],
            letter.reason[:200],
            letter.path,
            f"{letter.replayed_at.astimezone(UTC):%Y-%m-%d %H:%M}" if letter.replayed_at else "",
        )
    _out.print(table if letters else "No dead letters.", markup=False)
    if len(letters) == limit:
        _out.print(f"The first {limit}; --limit shows more.")


@app.command()
def show(id_: Annotated[int, typer.Argument(metavar="ID", help="id of a dead letter")]) -> None:
    """Show one dead letter whole: why, where, and the original bytes."""
    letters = _find(Filter(ids=[id_], replayed=True), 1)
    if not letters:
        raise SlateError(f"there is no dead letter {id_}; `slate dead-letters list --replayed` shows them")
    letter = letters[0]
    for name in ("id", "received_at", "stage", "code", "reason", "path", "subject", "stream", "seq", "stored_at"):
        _out.print(f"{name:12} {getattr(letter, name)}", markup=False, soft_wrap=True)
    _out.print(f"{'element':12} {'' if letter.element is None else letter.element}")
    _out.print(f"{'replayed_at':12} {letter.replayed_at or ''}")
    _out.print(f"{'would be':12} {verdict(letter)}", markup=False, soft_wrap=True)
    for name, data in (("headers", letter.headers), ("payload", letter.payload)):
        _out.print(f"{name}, {len(data)} bytes:")
        _out.print(harmless(data.decode("utf-8", "backslashreplace")), markup=False, highlight=False, soft_wrap=True)


@app.command("replay")
def replay_(
    ids: Ids = None,
    stage: Stage = None,
    code: Code = None,
    reason: Reason = None,
    subject: Subject = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would become of each")] = False,
    everything: Annotated[bool, typer.Option("--all", help="all that were not replayed yet")] = False,
) -> None:
    """Publish dead letters again, through the same validation; each is stored once and marked."""
    which = Filter(
        ids=ids or None,
        stage=stage,
        code=code,
        reason=reason,
        subject=subject,
        since=since,
        until=until,
        replayed=replayed or bool(ids),
    )
    if which in (Filter(), Filter(replayed=True)) and not (everything or dry_run):
        raise typer.BadParameter("name ids or a filter, or --all to replay every dead letter")
    settings = Settings.load()
    if dry_run:
        with explained():
            counts = Counter(verdict(letter) for letter in find(settings, which))
        table = Table("would be", "dead letters")
        for outcome, count in counts.most_common():
            table.add_row(outcome[:200], str(count))
        _out.print(table if counts else "No dead letters match.")
        return
    columns = SpinnerColumn(), TextColumn("Replaying"), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        logged(settings, "dead-letters replay", _told(which)) as run,
        Progress(*columns, console=_out, disable=not _out.is_terminal) as progress,
        explained(),
    ):
        task = progress.add_task("Replaying", total=None)
        report = asyncio.run(replay(settings, find(settings, which), lambda: progress.advance(task)))
        run.counts |= {"published": report.published, "impossible": len(report.impossible)}
    _out.print(f"{report.published} published again and marked; what is still wrong comes back as a new dead letter.")
    for id_, why in report.impossible:
        _out.print(f"{id_}: not replayed: {why}", markup=False)


def _told(which: Filter) -> dict[str, object]:
    """A filter as the log may have it: a subject ends with a session's id, and a reason may quote anything."""
    front, _, session = (which.subject or "").rpartition(".")
    subject = f"{front}.{session if session in ('*', '>') else disguised(session)}" if which.subject else None
    reason = disguised(which.reason) if which.reason else None
    times = {name: at and at.isoformat() for name, at in (("since", which.since), ("until", which.until))}
    return {
        "ids": list(which.ids) if which.ids else None,
        "stage": which.stage,
        "code": which.code,
        "subject": subject,
        "reason": reason,
        **times,
        "replayed": which.replayed or None,
    }
