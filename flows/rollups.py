"""Rollups: usage, errors and events by day, figures of one and five minutes, always what the tables say; and alerts.

Run it with `python -m bytewax.run flows.rollups`. It counts what `flows.ingest` has stored; its position is in the
database, so it needs no recovery store (`-r` is taken, and nothing resumes from it).
"""

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.analytics import send_windows
from connectors.history import History
from connectors.rollups import RollupProgress, RollupSink
from connectors.settings import Settings
from connectors.settled import SettledSource
from connectors.shutdown import Shutdown
from flows.alerts import LiveRules, watch_alerts
from flows.audit import watch_drift
from flows.fold import fold, fold_up
from flows.start import start


def build(settings: Settings, shutdown: Shutdown) -> Dataflow:
    """The dataflow: what ingest has stored, what that adds, the totals."""
    rules = LiveRules(settings)
    history = History()
    source = SettledSource(settings, "rollups", RollupProgress(settings, shutdown), history, shutdown)
    flow = Dataflow("rollups")
    settled = op.input("read_settled", flow, source)
    counted = op.map("fold", settled, lambda batch: fold(batch, sessions="session" in rules.usage_labels))
    sink = RollupSink(settings, shutdown, lambda sums: fold_up(sums, rules.usage_labels), history)
    op.output("write_rollups", counted, sink)
    watch_drift(settings, shutdown)
    watch_alerts(settings, rules, shutdown)
    send_windows(settings, shutdown)
    return flow


def flow() -> Dataflow:
    """What `bytewax.run` starts."""
    return start("flows.rollups", build)
