"""What every dataflow does first: settings, logs, signals, metrics, health, and an interpreter tuned for batches."""

import gc
import sys
from collections.abc import Callable

from bytewax.dataflow import Dataflow

from connectors import logs, metrics
from connectors.clock_guard import guard_clock
from connectors.errors import SlateError
from connectors.health import HEALTH, longest_silence_s
from connectors.schema import check_schema
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.systemd import Reporter

Build = Callable[[Settings, Shutdown], Dataflow]


def start(name: str, build: Build) -> Dataflow:
    """Build a dataflow with this process's settings; a user's mistake ends the process with a sentence."""
    try:
        settings = Settings.load()
        logs.configure(settings)
        shutdown = Shutdown()
        shutdown.on_signals()
        check_schema(settings)
        HEALTH.silence_s = longest_silence_s(settings)
        dataflow = build(settings, shutdown)
        metrics.serve(settings, HEALTH)
        Reporter(HEALTH, metrics.Pace(), lambda: shutdown.requested).start()
    except SlateError as error:
        sys.exit(f"{name}: {error}")
    guard_clock()
    # Rows live for one batch and hold no cycles: collecting often finds nothing and walks them all.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # Reading, validating and writing take turns at the interpreter; longer turns move less between the cores' caches.
    sys.setswitchinterval(0.02)
    return dataflow
