"""A database as people know it: simulated sessions of the last hour, stored, counted and alerted on by real workers."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from connectors.settings import Settings
from realtime.simulator import Plan, events
from tests.support.receiver import Answer, Receiver
from tests.support.rollups import counted
from tests.support.stack import connect
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

RATE = 5.0
"""Messages a second of event time."""
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_DONE = """
    SELECT
        (SELECT count(*) FROM slate.alerts WHERE state = 'resolved') > 0
        AND (SELECT count(*) FROM slate.alert_states WHERE status = 'firing') > 0
        AND (SELECT count(DISTINCT state) FROM slate.alert_deliveries WHERE state <> 'pending') > 1
"""


@contextmanager
def simulated(settings: Settings, directory: Path, minutes: int = 45) -> Iterator[tuple[Worker, Worker]]:
    """The workers of ingest and rollups when they are done with the last `minutes`.

    Calls of `apply_patch` fail for ten minutes, and again until now. The receiver of alerts refuses the first one, and
    takes the second when it is sent again. Something is invalid, something comes twice.
    """
    now = datetime.now(UTC)
    half = timedelta(minutes=minutes) / 2
    plans = [
        _plan(now - 2 * half, half, outage_seconds=600, seed=1),
        _plan(now - half, half, outage_seconds=half.total_seconds(), seed=2),
    ]
    with Traffic(settings, rate=1e9, events=[one for plan in plans for one in events(plan)]):
        pass
    last = asyncio.run(last_sequence(settings))
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver(Answer(400), Answer(503), Answer(200)))
        told = {"SLATE_ALERT_WEBHOOK_URL": receiver.url, "SLATE_ALERT_WEBHOOK_SECRET": _SECRET}
        ingest = stack.enter_context(Worker(settings, directory=directory))
        rollups = stack.enter_context(
            Worker(settings, flow="flows.rollups", directory=directory, environment={"SLATE_AUDIT_EVERY": "1"} | told)
        )
        connection = stack.enter_context(connect(settings))
        eventually(lambda: counted(connection) >= last, 40, what="all is counted")
        eventually(lambda: connection.execute(_DONE.encode()).fetchone() == (True,), 30, what="alerts fire and end")
        yield ingest, rollups


def _plan(start: datetime, length: timedelta, *, outage_seconds: float, seed: int) -> Plan:
    return Plan(
        start=start,
        sessions=30,
        rate=RATE,
        seconds=length.total_seconds(),
        invalid=0.01,
        duplicates=0.01,
        outage="apply_patch",
        outage_after=300,
        outage_seconds=outage_seconds,
        seed=seed,
    )
