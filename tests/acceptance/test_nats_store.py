"""A NATS server without replicas that comes back with an older store: what its disk had not, or a backup."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from deploy.servers import NatsServer
from flows.audit import audit
from tests.support.failover import KeptWorker
from tests.support.rollups import counted
from tests.support.stack import connect
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def stored(database: psycopg.Connection) -> int:
    row = database.execute("SELECT coalesce(sum(stored + dead_lettered), 0)::bigint FROM slate.progress").fetchone()
    return int(row[0]) if row else 0


@pytest.mark.parametrize(
    ("more", "stopped"),
    [
        pytest.param(100, False, id="it is shorter than before"),
        pytest.param(800, False, id="it has grown past our position"),
        pytest.param(800, True, id="it has grown past our position while workers were stopped"),
    ],
)
def test_what_is_published_under_sequences_that_were_used_before_is_stored_and_counted(
    settings: Settings, database: psycopg.Connection, nats_server: NatsServer, tmp_path: Path, more: int, stopped: bool
) -> None:
    store, kept = nats_server.directory / "jetstream", tmp_path / "kept"
    with ExitStack() as running:

        def start() -> tuple[KeptWorker, KeptWorker]:
            ingest, rollups = KeptWorker(settings), KeptWorker(settings, flow="flows.rollups")
            return running.enter_context(ingest), running.enter_context(rollups)

        both = start()
        with Traffic(settings, 600, rate=2000, seed=1):
            pass
        eventually(lambda: counted(database) == 600, 30)
        nats_server.stop()
        shutil.copytree(store, kept)
        nats_server.start()
        with Traffic(settings, 300, rate=2000, seed=2):
            pass
        eventually(lambda: stored(database) == 900, 30)
        if stopped:
            running.close()
        else:
            for worker in both:
                worker.pause()
        nats_server.kill()
        shutil.rmtree(store)
        kept.rename(store)
        nats_server.start()
        assert asyncio.run(last_sequence(settings)) == 600
        with Traffic(settings, more, rate=5000, seed=3):
            pass
        if stopped:
            both = start()
        else:
            for worker in both:
                worker.resume()
        eventually(lambda: stored(database) == 900 + more, 40, what="what is new is stored")
        eventually(lambda: database.execute(UNCOUNTED).fetchone() == (0,), 40, what="it is counted")
        today = datetime.now(UTC).date()
        assert list(audit(settings, today - timedelta(days=2), today + timedelta(days=1))) == []
        assert "the stream lost its end" in both[0].log.read_text()
        assert len(both[0].ends) == (0 if stopped else 1)


UNCOUNTED = """
    SELECT count(*) FROM slate.progress AS p JOIN slate.rollup_progress AS r USING (stream, partition)
    WHERE p.seq > r.seq OR r.seq < 0 OR p.read <> r.read
"""
