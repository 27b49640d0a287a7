"""A base backup is taken while workers write, the servers are destroyed and restored: the stream fills in the rest."""

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.errors import ConnectionFailedError
from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from deploy.servers import NatsServer
from tests.support.failover import KeptWorker
from tests.support.rollups import EVERYTHING, counted
from tests.support.secure_postgres import SecurePostgres, SecureServer, secure_postgres
from tests.support.traffic import Traffic, assert_drained_exactly_once, last_sequence
from tests.support.waiting import eventually

SCRIPTS = Path(__file__).parents[2] / "deploy" / "postgresql"


@pytest.fixture(scope="module")
def secured() -> Iterator[SecurePostgres]:
    with secure_postgres() as stack:
        yield stack


@pytest.fixture(scope="module")
def writer(secured: SecurePostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    server = NatsServer(tmp_path_factory.mktemp("nats"), user="slate", password=secrets.token_hex(16))
    server.start()
    try:
        settings = secured.settings("writer", nats_url=server.environment()["NATS_URL"], stream="BACKUP")
        asyncio.run(ensure_stream(settings))
        yield settings
    finally:
        server.kill()


def back_up(secured: SecurePostgres, server: SecureServer, keep: int = 7) -> list[Path]:
    """Run the script on a server's machine; returns all backups, the newest first."""
    directory = server.directory / "backups"
    environment = secured.replication(server) | {"PGHOST": server.host}
    server.run(SCRIPTS / "backup.sh", directory, str(keep), environment=environment)
    return sorted(directory.iterdir(), reverse=True)


def stored(secured: SecurePostgres) -> int:
    return int(secured.primary.value("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress"))


def timeline(server: SecureServer) -> int:
    return int(server.value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"), 16)


def test_what_is_restored_from_a_backup_goes_on_from_its_position_and_the_stream_fills_the_rest(
    secured: SecurePostgres, writer: Settings
) -> None:
    primary = secured.primary
    with KeptWorker(writer) as ingest, KeptWorker(writer, flow="flows.rollups") as rollups:
        with Traffic(writer, 4000, rate=1000) as first:
            eventually(lambda: stored(secured) > 500, 30, what="workers write")
            (backup,) = back_up(secured, primary)
            at_backup = stored(secured)
        with Traffic(writer, 2000, rate=2000, seed=1) as second:
            pass
        last = asyncio.run(last_sequence(writer))
        eventually(lambda: stored(secured) == last, 60, what="all is stored")
        assert at_backup < last

        secured.replica.kill()
        primary.kill()
        shutil.rmtree(primary.data)
        primary.run(SCRIPTS / "restore.sh", backup, primary.data)
        primary.start()
        eventually(lambda: primary.value("SELECT NOT pg_is_in_recovery()"), 30, what="it takes writes")
        assert timeline(primary) == 2, "whoever has seen the first one must notice"
        with Traffic(writer, 1000, rate=2000, seed=2) as third:
            pass

        with primary.admin() as connection:
            assert_drained_exactly_once(connection, writer, [*first.events, *second.events, *third.events])
            last = asyncio.run(last_sequence(writer))
            eventually(lambda: counted(connection) == last, 60, what="all is counted")
            assert connection.execute(f"SELECT * FROM {EVERYTHING}".encode()).fetchall() == []
        assert ingest.ends, "it went on as if nothing had happened"
        assert set(ingest.ends + rollups.ends) <= {1}
        assert "gone back" in ingest.log.read_text()
    secured.rebuild()
    eventually(secured.caught_up, 30, what="a new replica follows")


def test_only_the_newest_backups_are_kept(secured: SecurePostgres) -> None:
    first = back_up(secured, secured.primary)
    (kept,) = back_up(secured, secured.primary, keep=1)
    assert kept not in first


def test_a_backup_of_a_replica_is_restored_as_a_primary(secured: SecurePostgres) -> None:
    server = secured.replica
    (backup, *_) = back_up(secured, server)
    server.kill()
    shutil.rmtree(server.data)
    server.run(SCRIPTS / "restore.sh", backup, server.data)
    server.start()
    eventually(lambda: server.value("SELECT NOT pg_is_in_recovery()"), 30, what="it takes writes")
    assert timeline(server) > timeline(secured.primary)
    secured.rebuild()
    eventually(secured.caught_up, 30, what="it is a replica again")


def test_a_backup_that_fails_leaves_nothing(secured: SecurePostgres) -> None:
    server = secured.primary
    directory = server.directory / "other-backups"
    environment = secured.replication(server) | {"PGPASSFILE": "/dev/null"}
    with pytest.raises(ConnectionFailedError, match="no password supplied"):
        server.run(SCRIPTS / "backup.sh", directory, environment=environment)
    assert list(directory.iterdir()) == []


def test_neither_a_damaged_backup_nor_over_data_is_restored(secured: SecurePostgres) -> None:
    server = secured.primary
    (backup, *_) = back_up(secured, server)
    with pytest.raises(ConnectionFailedError, match="move it away"):
        server.run(SCRIPTS / "restore.sh", backup, server.data)
    with (backup / "global" / "pg_control").open("r+b") as file:
        file.write(b"damaged")
    there = server.directory / "elsewhere"
    with pytest.raises(ConnectionFailedError, match="checksum mismatch"):
        server.run(SCRIPTS / "restore.sh", backup, there)
    assert not there.exists()
