"""Ingest: every event of the stream into PostgreSQL, once.

Run it with `python -m bytewax.run flows.ingest`; it needs no recovery store, for its position is in the database.
"""

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.nats import NatsSource
from connectors.postgres import PostgresSink, Progress
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.tracing import start as start_tracing
from flows.rows import TABLES
from flows.start import start
from flows.validate import refused_by_store, validate


def build(settings: Settings, shutdown: Shutdown) -> Dataflow:
    """The dataflow: partitions of the stream, the outcomes of their messages, the database."""
    source = NatsSource(settings, "ingest", Progress(settings), shutdown, beats=True)
    sink = PostgresSink(
        settings,
        TABLES,
        rebuild=validate,
        give_up=refused_by_store,
        shutdown=shutdown,
        on_dead_letter=source.announce,
        tracing=start_tracing(settings, "slate-ingest"),
    )
    flow = Dataflow("ingest")
    batches = op.input("read_nats", flow, source)
    outcomes = op.map("validate", batches, validate)
    op.output("write_postgres", outcomes, sink)
    return flow


def flow() -> Dataflow:
    """What `bytewax.run` starts."""
    return start("flows.ingest", build)
