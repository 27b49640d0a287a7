"""`slate doctor`: looks at everything that SPARK on SLATE needs, and says what to do."""

import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.errors import ConfigurationError
from connectors.settings import Settings
from deploy.checks import (
    Check,
    check_disk,
    check_metrics,
    check_nats,
    check_postgres,
    check_redis,
)

SECTION_TIMEOUT_S = 15.0
"""A server that takes connections and then says nothing must not hold up the others."""

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_SECTIONS: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
    ("PostgreSQL", check_postgres),
    ("disk", check_disk),
    ("NATS", check_nats),
    ("Redis", check_redis),
    ("metrics", check_metrics),
)


def examine() -> list[Check]:
    """Do all checks, each kind for at most `SECTION_TIMEOUT_S`; never raises for what it finds."""
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        return [Check("settings", "fail", "not usable", str(error))]
    found = [Check("settings", "ok", "readable")]
    for name, section in _SECTIONS:
        found += _within(SECTION_TIMEOUT_S, name, section, settings)
    return found


def _within(
    seconds: float, name: str, section: Callable[[Settings], Iterator[Check]], settings: Settings
) -> list[Check]:
    found: list[Check] = []

    def run() -> None:
        try:
            found.extend(section(settings))
        except Exception as error:  # noqa: BLE001  # a doctor reports what he did not expect, too
            found.append(Check(name, "fail", f"{type(error).__name__}: {error}", "this is not expected: report it"))

    # a daemon: it may be stuck for ever, and must not keep the command from ending
    thread = threading.Thread(target=run, name=f"doctor-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        silent = Check(name, "fail", f"no answer within {seconds:g} s", "it is overloaded or hangs: see its log")
        return [*found, silent]
    return found


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in checks:
        table.add_row(Text(one.name), Text(one.state, style=_STYLE[one.state]), Text(one.found), Text(one.remedy))
    console.print(table)
