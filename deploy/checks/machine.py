"""This machine: alert rules, disk, metrics of workers."""

import shutil
from collections.abc import Iterator
from typing import Final

from connectors.errors import SlateError
from connectors.settings import Settings
from connectors.webhooks import usable
from deploy.checks.row import Check, State, first_line, size
from deploy.embedded import port_is_free
from deploy.figures import scrape
from flows.alert_rules import load

DISK_FAIL: Final = 1 << 30
DISK_WARN: Final = 5 << 30
"""Free bytes below which a local disk is reported."""


def check_alerts(settings: Settings) -> Iterator[Check]:
    """The rules file and its receivers."""
    try:
        rules = load(settings.alert_rules_file)
        receivers = usable(settings, rules.receivers)
    except SlateError as error:
        yield Check("alert rules", "fail", first_line(error), "`slate alerts check` says all that is wrong")
        return
    told = ", ".join(receiver.name for receiver in receivers) or "nobody"
    yield Check("alert rules", "ok", f"{len(rules.rules)} rules, {len(rules.budgets)} budgets; told to {told}")


def check_disk(settings: Settings) -> Iterator[Check]:
    """Free space below SLATE_DIR, where `slate up` keeps its servers."""
    directory = settings.dir.absolute()
    if not (directory / "lock").exists():
        return
    free = shutil.disk_usage(directory).free
    state: State = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
    remedy = "" if state == "ok" else "free some, or set SLATE_DIR to a directory on a larger disk"
    yield Check("disk", state, f"{size(free)} free for {directory}", remedy)


def check_metrics(settings: Settings) -> Iterator[Check]:
    """Whether a worker of this machine answers on the metrics port."""
    port = settings.metrics_port
    if not port:
        yield Check("metrics", "ok", "switched off by SLATE_METRICS_PORT=0")
    elif scrape(port) is not None:
        yield Check("metrics", "ok", f"http://127.0.0.1:{port}/metrics")
    elif port_is_free(port):
        yield Check(
            "metrics",
            "warn",
            f"nobody answers on port {port}",
            "start a worker, or set SLATE_METRICS_PORT to its port",
        )
    else:
        yield Check(
            "metrics",
            "warn",
            f"port {port} belongs to another program",
            "set SLATE_METRICS_PORT to a free port; else a worker chooses one and says so in its log",
        )
