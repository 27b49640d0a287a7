"""`slate alerts`: check rules, try them on the past, see what fires, and keep it quiet."""

import getpass
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from connectors.admin_log import AdminRun, disguised, logged
from connectors.errors import SlateError
from connectors.link import open_connection
from connectors.settings import Settings
from connectors.sql import read
from connectors.webhooks import usable
from deploy.terminal import a_time, an_age, explained, harmless
from flows.alert_rules import Rules, load
from flows.alert_signals import in_words
from flows.backtest import Backtest, Episode, backtest

app = typer.Typer(no_args_is_help=True, help="Check alert rules, try them on the past, see what fires.")
_out = Console(width=None if sys.stdout.isatty() else 200)
_MOST_LOOKS_SHOWN: Final = 30

RulesFile = Annotated[
    Path | None, typer.Option("--rules", help="the file; SLATE_ALERT_RULES unless it is given", show_default=False)
]
Since = Annotated[datetime, typer.Option("--from", parser=a_time, metavar="TIME", help="7d ago, or an ISO time")]
Until = Annotated[datetime, typer.Option("--to", parser=a_time, metavar="TIME", help="until then; now unless given")]
Limit = Annotated[int, typer.Option(min=1, help="at most this many")]


@app.command()
def check(rules: RulesFile = None) -> None:
    """Say whether a rules file is right, and if not, what is wrong where; exit code 1 then."""
    settings = Settings.load()
    path = rules or settings.alert_rules_file
    found = load(path)
    on = {receiver.name for receiver in usable(settings, found.receivers)}
    table = Table("rule", "fires when", "for", "severity", "told to")
    for rule in found.rules:
        side = "above" if rule.above is not None else "below"
        by = f" by {', '.join(rule.group_by)}" if rule.group_by else ""
        when = f"{rule.signal}{by} {side} {in_words(rule.threshold, rule.measure.unit)}"
        told = found.receivers_of({"alertname": rule.name, "severity": rule.severity, **rule.labels})
        table.add_row(rule.name, when, f"{rule.for_} s", rule.severity, _told(told, on))
    for budget in found.budgets:
        whole = f"{budget.tokens:,} tokens" if budget.tokens is not None else f"${budget.cost:,.2f}"
        for level, severity in budget.levels:
            told = found.receivers_of({"alertname": budget.name, "severity": severity, **budget.labels})
            when = f"{level} % of {whole} of {budget.per} are spent in a {budget.period}"
            table.add_row(budget.name, when, "0 s", severity, _told(told, on))
    _out.print(table)
    off = [f"{one.name} ({one.env} is not set)" for one in found.receivers if one.name not in on]
    _out.print(f"{path}: {len(found.rules)} rules and {len(found.budgets)} budgets, all right", soft_wrap=True)
    if off:
        _out.print(f"Receivers that are off: {', '.join(off)}", soft_wrap=True)


def _told(names: Sequence[str], on: set[str]) -> str:
    return ", ".join(name for name in names if name in on) or "nobody"


@app.command("backtest")
def backtest_(
    since: Since = "1d",  # type: ignore[assignment]  # typer parses it
    until: Until = "0s",  # type: ignore[assignment]
    rules: RulesFile = None,
    against: Annotated[
        Path | None, typer.Option(help="another rules file: say what it would have told otherwise")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything as JSON")] = False,
) -> None:
    """Say what rules would have told of in the past, for how long and why, and why not.

    The code is that of the workers, over what the tables hold. Lags and the depth of the queue are in no table, and
    rules on them are left out.
    """
    if until <= since:
        raise typer.BadParameter("must be after --from", param_hint="--to")
    settings = Settings.load()
    path = rules or settings.alert_rules_file
    files = [path, *([against] if against is not None else [])]
    loaded = [load(one) for one in files]
    found = [_run(settings, one, since, until) for one in loaded]
    if json:
        typer.echo(msgspec.json.encode(_as_json(files, found)).decode())
        return
    if len(found) == 1:
        _show(found[0])
    else:
        _compare(files, found)


def _run(settings: Settings, rules: Rules, since: datetime, until: datetime) -> Backtest:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=_out, disable=not _out.is_terminal, transient=True) as progress:
        task = progress.add_task("Reading the tables", total=None)
        return backtest(
            settings,
            rules,
            since,
            until,
            lambda figures, at: progress.update(task, description=f"{figures:,} figures, up to {at:%Y-%m-%d %H:%M}"),
        )


def _show(found: Backtest) -> None:
    table = Table("from (UTC)", "for", "rule", "labels", "why", "why it ended")
    for one in found.episodes:
        table.add_row(_moment(one.starts), _length(one), one.rule, _labels(one.labels), one.reason, one.resolution)
    _out.print(table if found.episodes else "Nothing would have fired.", markup=False)
    holds = Table("rule", "not told because", "groups", "looks", "first (UTC)", "last (UTC)", "worst")
    for hold in found.holds[:_MOST_LOOKS_SHOWN]:
        first, last = (_moment(one) if one is not None else "" for one in (hold.first, hold.last))
        worst = in_words(hold.worst, hold.unit)
        holds.add_row(hold.rule, hold.why, f"{len(hold.groups):,}", f"{hold.looks:,}", first, last, worst)
    if found.holds:
        _out.print(holds)
    if found.absent:
        _out.print(f"Not tried, for no table holds their figures: {', '.join(found.absent)}", soft_wrap=True)
    _out.print(f"{len(found.episodes):,} alerts, of {found.figures:,} figures.")


def _compare(files: Sequence[Path], found: Sequence[Backtest]) -> None:
    """What only one of two would have told of, and what both would, at another time."""
    table = Table("only in", "from (UTC)", "for", "rule", "labels", "why")
    sides = [{(one.fingerprint, one.starts): one for one in each.episodes} for each in found]
    for path, here, there in ((files[0], sides[0], sides[1]), (files[1], sides[1], sides[0])):
        for key in here.keys() - there.keys():
            one = here[key]
            table.add_row(str(path), _moment(one.starts), _length(one), one.rule, _labels(one.labels), one.reason)
    both = sides[0].keys() & sides[1].keys()
    longer = [key for key in both if sides[0][key].ends != sides[1][key].ends]
    _out.print(table if table.row_count else "Both would have told of the same.", markup=False)
    for key in longer:
        one, other = sides[0][key], sides[1][key]
        _out.print(f"{one.rule} {_labels(one.labels)}, {_moment(one.starts)}: for {_length(one)}, or {_length(other)}")
    for path, each in zip(files, found, strict=True):
        _out.print(f"{path}: {len(each.episodes):,} alerts", soft_wrap=True)
    _out.print(f"{len(both):,} in both.")


def _as_json(files: Sequence[Path], found: Sequence[Backtest]) -> list[dict[str, Any]]:
    return [
        {
            "rules": str(path),
            "figures": one.figures,
            "alerts": [msgspec.to_builtins(episode) | {"seconds": episode.seconds} for episode in one.episodes],
            "held": [
                msgspec.to_builtins(msgspec.structs.replace(hold, groups=set())) | {"groups": len(hold.groups)}
                for hold in one.holds
            ],
            "absent": one.absent,
        }
        for path, one in zip(files, found, strict=True)
    ]


@app.command("list")
def list_(
    since: Since = "1d",  # type: ignore[assignment]  # typer parses it
    limit: Limit = 50,
) -> None:
    """List what fires or is about to, what was told lately and to whom, and silences."""
    with _connection() as connection:
        states = connection.execute(read("alerts/list_states.sql"), {"most": limit}).fetchall()
        alerts = connection.execute(read("alerts/list_alerts.sql"), {"most": limit, "since": since}).fetchall()
        silences = connection.execute(read("alerts/silences.sql")).fetchall()
    table = Table("fingerprint", "state", "since (UTC)", "rule", "labels", "why")
    for rule, fingerprint, status, labels, moment, reason, by, silenced in states:
        more = [*(["silenced"] if silenced else []), *([f"taken on by {by}"] if by else [])]
        table.add_row(fingerprint, ", ".join([status, *more]), _moment(moment), rule, _labels(labels), harmless(reason))
    _out.print(table if states else "Nothing fires.", markup=False)
    table = Table("decided (UTC)", "what", "rule", "labels", "why", "told")
    for moment, state, rule, labels, reason, told in alerts:
        table.add_row(_moment(moment), state, rule, _labels(labels), harmless(reason), harmless(told))
    if alerts:
        _out.print(table)
    for number, matchers, until, author, comment in silences:
        _out.print(
            f"silence {number}: {_labels(matchers)} until {_moment(until)}, by {harmless(author)}: {harmless(comment)}",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def silence(
    matchers: Annotated[list[str], typer.Argument(metavar="LABEL=VALUE...", help="labels that an alert must have")],
    length: Annotated[timedelta, typer.Option("--for", parser=an_age, metavar="LENGTH", help="30m, 2h, 1d")] = "1h",  # type: ignore[assignment]
    comment: Annotated[str, typer.Option(help="why")] = "",
) -> None:
    """Tell nothing of alerts with these labels for a time; what still fires then is told then.

    Of what began before, the end is told. Where Alertmanager tells people, silence it there.
    """
    told = dict(one.partition("=")[::2] for one in matchers)
    if any("=" not in one or not one.partition("=")[0] for one in matchers):
        raise typer.BadParameter("must be LABEL=VALUE, such as alertname=function-errors", param_hint="LABEL=VALUE")
    parameters = {"matchers": msgspec.json.encode(told).decode(), "length": length}
    parameters |= {"author": getpass.getuser(), "comment": comment}
    labels = {name: disguised(value) if name in ("user", "session") else value for name, value in told.items()}
    with _logged("alerts silence", matchers=labels, length=str(length)), _connection() as connection:
        row = connection.execute(read("alerts/silence.sql"), parameters).fetchone()
    assert row is not None  # noqa: S101 - it was inserted
    _out.print(f"Silence {row[0]} until {_moment(row[1])} (UTC); `slate alerts unsilence {row[0]}` ends it.")


@app.command()
def unsilence(number: Annotated[int, typer.Argument(help="its number")]) -> None:
    """End a silence."""
    with _logged("alerts unsilence", number=number), _connection() as connection:
        if not connection.execute(read("alerts/end_silence.sql"), {"id": number}).rowcount:
            raise SlateError(f"there is no silence {number}; `slate alerts list` shows them")
    _out.print(f"Silence {number} is over.")


@app.command()
def ack(fingerprint: Annotated[str, typer.Argument(help="of an alert that fires, as `list` shows it")]) -> None:
    """Say that you have taken an alert on, until its next episode."""
    with _logged("alerts ack", fingerprint=fingerprint), _connection() as connection:
        parameters = {"fingerprint": fingerprint, "author": getpass.getuser()}
        if not connection.execute(read("alerts/acknowledge.sql"), parameters).rowcount:
            raise SlateError(f"no alert {fingerprint} fires; `slate alerts list` shows those that do")
    _out.print("Taken on.")


def _logged(command: str, **arguments: Any) -> AbstractContextManager[AdminRun]:
    return logged(Settings.load(), command, arguments)


@contextmanager
def _connection() -> Any:
    with explained(), open_connection(Settings.load(), "slate-alerts-command") as connection:
        yield connection


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _length(episode: Episode) -> str:
    return "still fires" if episode.seconds is None else str(timedelta(seconds=episode.seconds))


def _labels(labels: dict[str, str]) -> str:
    return harmless(" ".join(f"{name}={value}" for name, value in labels.items() if name != "alertname"))
