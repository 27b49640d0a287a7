"""`slate maintain`: what is done once a day."""

from datetime import UTC, datetime

import typer

from connectors.admin_log import logged
from connectors.settings import Settings
from flows.maintenance import maintain


def maintain_command() -> None:
    """Make the months to come, let go of what is kept no longer, and audit yesterday. Run it once a day.

    Safe to repeat, and on several hosts. What is kept how long: SLATE_RETAIN_EVENTS_MONTHS (off by default),
    SLATE_RETAIN_DETACHED, SLATE_RETAIN_WINDOWS_DAYS, SLATE_RETAIN_ALERTS_DAYS,
    SLATE_RETAIN_DEAD_LETTERS_DAYS, SLATE_RETAIN_CONTENT_DAYS. Exit code 1: yesterday's totals differ from the tables.
    """
    settings = Settings.load()
    with logged(settings, "maintain") as run:
        for step in maintain(settings, datetime.now(UTC)):
            typer.echo(step.text)
            run.failed = run.failed or not step.well
            run.counts["steps"] = run.counts.get("steps", 0) + 1
    if run.failed:
        raise typer.Exit(1)
