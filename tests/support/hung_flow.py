"""Ingest with a step that hangs at messages of `spark.hang.>`; started as `bytewax.run tests.support.hung_flow`."""

import threading

import bytewax.operators as op
from bytewax.dataflow import Dataflow

import flows.start
from connectors.messages import NatsBatch
from connectors.nats import NatsSource
from connectors.outcomes import Outcomes
from connectors.postgres import PostgresSink, Progress
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from flows.rows import TABLES
from flows.validate import refused_by_store, validate

SILENCE_S = 2.0


def _hangs(batch: NatsBatch) -> Outcomes:
    if any(message.subject.startswith("spark.hang.") for message in batch.messages):
        threading.Event().wait()
    return validate(batch)


def _build(settings: Settings, shutdown: Shutdown) -> Dataflow:
    source = NatsSource(settings, "ingest", Progress(settings), shutdown)
    sink = PostgresSink(
        settings,
        TABLES,
        rebuild=validate,
        give_up=refused_by_store,
        shutdown=shutdown,
        on_dead_letter=source.announce,
    )
    flow = Dataflow("hung")
    batches = op.input("read_nats", flow, source)
    op.output("write_postgres", op.map("validate", batches, _hangs), sink)
    return flow


def flow() -> Dataflow:
    """What `bytewax.run` starts."""
    flows.start.longest_silence_s = lambda settings: SILENCE_S  # type: ignore[attr-defined]
    return flows.start.start("tests.support.hung_flow", _build)
