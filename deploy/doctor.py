"""`slate doctor`: looks at everything that SPARK on SLATE needs, and says what to do."""

import threading
from collections.abc import Callable, Iterator
from time import monotonic

from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.errors import ConfigurationError
from connectors.settings import Settings
from deploy.checks.access import check_access
from deploy.checks.clock import check_clock
from deploy.checks.machine import check_alerts, check_disk, check_metrics
from deploy.checks.nats import check_nats
from deploy.checks.postgres import check_postgres
from deploy.checks.redis import check_redis
from deploy.checks.replica import check_replica
from deploy.checks.row import Check
from deploy.checks.tls import check_tls

TIMEOUT_S = 15.0
"""A server that takes connections and then says nothing must not hold up the command."""

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_SECTIONS: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
    ("PostgreSQL", check_postgres),
    ("alerts", check_alerts),
    ("disk", check_disk),
    ("NATS", check_nats),
    ("Redis", check_redis),
    ("TLS", check_tls),
    ("access", check_access),
    ("replica", check_replica),
    ("clock", check_clock),
    ("metrics", check_metrics),
)


def examine() -> list[Check]:
    """Do all checks at once, for at most `TIMEOUT_S`; never raises for what it finds."""
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        return [Check("settings", "fail", "not usable", str(error))]
    deadline = monotonic() + TIMEOUT_S
    examinations = [_Examination(name, section, settings) for name, section in _SECTIONS]
    found = [Check("settings", "ok", "readable")]
    for one in examinations:
        found += one.result(deadline)
    return found


class _Examination:
    """One kind of check, in a thread: a server may hang."""

    def __init__(self, name: str, section: Callable[[Settings], Iterator[Check]], settings: Settings) -> None:
        self._name = name
        self._section = section
        self._settings = settings
        self._found: list[Check] = []
        # a daemon: it may be stuck for ever, and must not keep the command from ending
        self._thread = threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for one in self._section(self._settings):
                self._found.append(one)
        except Exception as error:  # noqa: BLE001  # a doctor reports what he did not expect, too
            unknown = f"{type(error).__name__}: {error}"
            self._found.append(Check(self._name, "fail", unknown, "this is not expected: report it"))

    def result(self, deadline: float) -> list[Check]:
        """Return what was found until the deadline."""
        self._thread.join(max(0.0, deadline - monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            found.append(
                Check(self._name, "fail", f"no answer within {TIMEOUT_S:g} s", "it is overloaded or hangs: see its log")
            )
        return found


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in checks:
        table.add_row(Text(one.name), Text(one.state, style=_STYLE[one.state]), Text(one.found), Text(one.remedy))
    console.print(table)
