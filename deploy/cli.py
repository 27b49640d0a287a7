"""The console script `slate`."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from connectors.admin_log import logged
from connectors.commands import exit_codes
from connectors.settings import Settings
from deploy import alerts, dead_letters
from deploy.admin_log import log_command
from deploy.audit import audit_command
from deploy.doctor import examine, show
from deploy.forget import export_command, forget_command
from deploy.maintain import maintain_command
from deploy.migrate import migrate_all
from deploy.session import session_command
from deploy.up import Wishes
from deploy.up import up as run_up
from realtime.simulate_command import simulate

_WIDTH_OF_LOGS = 200
"""Columns of a table that goes to a file or a pipe, where 80 would fold it."""

app = typer.Typer(
    name="slate",
    help="SPARK events from NATS JetStream into PostgreSQL, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("session")(session_command)
app.command("simulate")(simulate)
app.command("audit")(audit_command)
app.command("maintain")(maintain_command)
app.command("forget")(forget_command)
app.command("export")(export_command)
app.command("log")(log_command)
app.add_typer(alerts.app, name="alerts", help="Check alert rules, try them on the past, see what fires.")
app.add_typer(dead_letters.app, name="dead-letters", help="List, show and replay what was refused.")


@app.command()
def up(
    ctx: typer.Context,
    traffic: Annotated[bool, typer.Option("--traffic/--no-traffic", help="Publish sample traffic.")] = True,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1e6, help="Simulated messages a second; not with --trace.")
    ] = 200.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Replay a CSV of TIMESTAMP,ContextTokens,GeneratedTokens as usage events instead.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many seconds; without it, run until Ctrl-C.")
    ] = None,
) -> None:
    """Start servers, schema, worker and sample traffic on this machine, and show what happens.

    Servers whose SLATE_DB_HOST, NATS_URL or REDIS_HOST is set are used as they are; the others are started
    below SLATE_DIR (.slate), where their data is kept. Ctrl-C stops everything.
    """
    rate_given = ctx.get_parameter_source("rate")
    if trace is not None and rate_given is not None and rate_given.name != "DEFAULT":
        raise typer.BadParameter("a trace has a pace of its own", param_hint="--rate")
    run_up(Wishes(traffic=traffic, rate=rate, trace=trace, seconds=seconds))


@app.command()
def demo(
    sessions: Annotated[int, typer.Option(min=1, max=1000, help="Sessions at a time.")] = 4,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many seconds; without it, run until Ctrl-C.")
    ] = None,
) -> None:
    """As `slate up`, but events come of sessions that work in Unity projects.

    The Unity MCP server is the real one, installed into an environment of its own on first use; OpenAI and the editors
    are stand-ins. Scripts appear below SLATE_DIR/demo/projects. `slate session` in another terminal joins in.
    """
    run_up(Wishes(demo_sessions=sessions, seconds=seconds))


@app.command()
def migrate() -> None:
    """Bring the schema in PostgreSQL and the stream in NATS up to date; safe to repeat."""
    settings = Settings.load()
    with logged(settings, "migrate", makes_it=True):
        for text in migrate_all(settings):
            typer.echo(text)


@app.command()
def doctor() -> None:
    """Check each thing that SPARK on SLATE needs, and say what to do; exit code 1 if something fails."""
    _log_to_stderr(logging.CRITICAL)  # the table says it
    checks = examine()
    show(checks, Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_LOGS))
    if any(one.state == "fail" for one in checks):
        raise typer.Exit(1)


def _log_to_stderr(least: int) -> None:
    """Keep standard output for what a command has to say."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(least),
    )
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # it reports what its callers report, with a stack trace


def main() -> None:
    """Run a command: exit code 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    with exit_codes("slate"):
        _log_to_stderr(logging.WARNING)
        app()


if __name__ == "__main__":
    main()
