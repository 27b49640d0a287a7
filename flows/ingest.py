"""Ingest: every event of the stream into PostgreSQL, once.

Run it with `python -m bytewax.run flows.ingest`; it needs no recovery store, for its position is in the database.
"""

import gc
import sys

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors import logs, metrics
from connectors.errors import SlateError
from connectors.nats import NatsSource
from connectors.postgres import PostgresSink, Progress
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from flows.rows import TABLES
from flows.validate import refused_by_store, validate


def build(settings: Settings, shutdown: Shutdown) -> Dataflow:
    """The dataflow: partitions of the stream, the outcomes of their messages, the database."""
    source = NatsSource(settings, "ingest", Progress(settings), shutdown)
    sink = PostgresSink(
        settings,
        TABLES,
        rebuild=validate,
        give_up=refused_by_store,
        shutdown=shutdown,
        on_dead_letter=source.announce,
    )
    flow = Dataflow("ingest")
    batches = op.input("read_nats", flow, source)
    outcomes = op.map("validate", batches, validate)
    op.output("write_postgres", outcomes, sink)
    return flow


def flow() -> Dataflow:
    """What `bytewax.run` starts: the dataflow with this process's settings, logs, metrics and signals."""
    try:
        settings = Settings.load()
        logs.configure(settings)
        shutdown = Shutdown()
        shutdown.on_signals()
        dataflow = build(settings, shutdown)
        metrics.serve(settings)
    except SlateError as error:
        sys.exit(f"flows.ingest: {error}")
    # Rows live for one batch and hold no cycles: collecting often finds nothing and walks them all.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # Reading, validating and writing take turns at the interpreter; longer turns move less between the cores' caches.
    sys.setswitchinterval(0.02)
    return dataflow
