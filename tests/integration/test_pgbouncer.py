"""Behind PgBouncer in transaction mode, where nothing of a session outlives a transaction."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connectors.settings import Settings
from deploy.embedded import free_port, plain_environment
from deploy.processes import kill_tree, spawn
from flows.audit import audit
from tests.support.processes import open_directory
from tests.support.programs import need_program
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once
from tests.support.waiting import eventually
from tests.support.worker import Worker

_NOBODY = 65534


@pytest.fixture
def pooled(settings: Settings) -> Iterator[Settings]:
    """The same database through a pooler that gives each transaction another connection."""
    program = need_program("pgbouncer", "pgbouncer")
    port = free_port()
    password = settings.db_password.get_secret_value() if settings.db_password else ""
    with open_directory() as directory:
        config = directory / "pgbouncer.ini"
        config.write_text(
            f"""[databases]
{settings.db_name} = host={settings.db_host} port={settings.db_port} user={settings.db_user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_round_robin = 1
default_pool_size = 8
min_pool_size = 4
"""
        )
        config.chmod(0o644)
        log = directory / "pgbouncer.log"
        uid = _NOBODY if os.geteuid() == 0 else None
        process = spawn([program, config], log=log, environment=plain_environment(), uid=uid)
        through = settings.model_copy(update={"db_port": port})
        try:
            eventually(lambda: answers(through), 10, what=f"pgbouncer answers; see {log}")
            yield through
        finally:
            kill_tree(process)


def answers(settings: Settings) -> bool:
    try:
        connect(settings).close()
    except psycopg.OperationalError:
        return False
    return True


def test_both_workers_and_an_audit_work_behind_a_pooler_in_transaction_mode(
    settings: Settings, pooled: Settings
) -> None:
    with connect(settings) as connection, Worker(pooled) as ingest, Worker(pooled, flow="flows.rollups") as rollups:
        with Traffic(pooled, 10_000, rate=5000) as traffic:
            pass
        assert_drained_exactly_once(connection, settings, traffic.events)
        counted = "SELECT coalesce(sum(read), 0)::int FROM slate.rollup_progress"
        eventually(lambda: connection.execute(counted).fetchone() == (10_000,), 20)
        today = datetime.now(UTC).date()
        assert list(audit(pooled, today - timedelta(days=1), today + timedelta(days=1))) == []
        for worker in (ingest, rollups):
            assert "cannot write yet" not in Path(worker.log).read_text()
            worker.terminate()
            assert worker.wait() == 0
