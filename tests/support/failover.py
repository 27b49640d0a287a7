"""A primary and its asynchronous replica, to be killed and promoted, and workers that somebody keeps running."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from connectors.settings import Settings
from deploy.embedded import HOST
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from tests.support.replica import REPLICA_HOST, ReplicaServer
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tests.support.worker import Worker

_RESTART_S = 0.5


class Pair:
    """PostgreSQL twice; clients know both (`127.0.0.1,127.0.0.2`)."""

    def __init__(self, primary: PostgresServer, replica: ReplicaServer) -> None:
        self.primary = primary
        self.replica = replica

    def cut_off(self) -> None:
        """The replica gets nothing more: what is committed from now on is lost in a failover."""
        self.replica.query("ALTER SYSTEM SET primary_conninfo = ''")
        self.replica.query("SELECT pg_reload_conf()")
        eventually(lambda: self.replica.query("SELECT count(*) FROM pg_stat_wal_receiver") == 0)

    def promote(self) -> float:
        """Make the replica the primary; returns when it began to take writes (`time.monotonic`)."""
        self.replica.query("SELECT pg_promote()")
        eventually(lambda: self.replica.query("SELECT pg_is_in_recovery()") is False)
        return time.monotonic()


@contextmanager
def pair(directory: Path) -> Iterator[Pair]:
    """A primary, and a replica that has all of it."""
    primary = PostgresServer(directory / "primary", password=secrets.token_hex(16))
    primary.start()
    replica = ReplicaServer(directory / "replica", primary)
    try:
        replica.start()
        yield Pair(primary, replica)
    finally:
        replica.kill()
        primary.kill()


@contextmanager
def on_both(both: Pair, nats_server: NatsServer, valkey: ValkeyServer, **overrides: Any) -> Iterator[Settings]:
    """Settings whose database is on both servers."""
    with Stack(both.primary, nats_server, valkey).provide(**overrides) as settings:
        there = settings.model_copy(update={"db_host": f"{HOST},{REPLICA_HOST}"})
        alone = settings.model_copy(update={"db_host": REPLICA_HOST})
        eventually(lambda: _is_migrated(alone), 30, what="the replica has the database")
        yield there


def _is_migrated(settings: Settings) -> bool:
    try:
        with psycopg.connect(**settings.dsn()) as connection:  # type: ignore[arg-type]
            return connection.execute("SELECT count(*) FROM slate.progress").fetchone() is not None
    except psycopg.Error:
        return False


class KeptWorker(Worker):
    """A worker that is started again when it ends, as systemd does. `ends` are the exit codes so far."""

    def __init__(self, settings: Settings, *arguments: str, flow: str = "flows.ingest", **more: Any) -> None:
        super().__init__(settings, *arguments, flow=flow, **more)
        self.ends: list[int] = []
        self._done = threading.Event()
        self._begun = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._keeper.start()  # a process dies with the thread that started it
        assert self._begun.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        super().__exit__(kind, error, trace)
        self._keeper.join(10)

    def _keep(self) -> None:
        while not self._done.is_set():
            self.start()
            self._begun.set()
            assert self._process is not None
            code = self._process.wait()
            self.ends.append(code)
            self._done.wait(_RESTART_S)
