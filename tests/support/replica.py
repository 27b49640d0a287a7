"""A streaming replica of the embedded PostgreSQL: on another loopback address and, as settings want, the same port."""

import shutil
import signal
from pathlib import Path

import psycopg

from connectors.errors import ConnectionFailedError
from deploy.embedded import HOST
from deploy.processes import kill_tree, tail
from deploy.servers import ROLE, PostgresServer

REPLICA_HOST = "127.0.0.2"
_SLOT = "test_replica"


class ReplicaServer(PostgresServer):
    """Follows a primary that runs; the primary keeps what it has not got. Call `forget` at the end."""

    name = "PostgreSQL replica"

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        self._password_of_primary = primary.environment()["SLATE_DB_PASSWORD"]
        super().__init__(directory, port=primary.port, password=self._password_of_primary)

    def environment(self) -> dict[str, str]:
        """`SLATE_DB_REPLICA_HOST`."""
        return {"SLATE_DB_REPLICA_HOST": REPLICA_HOST}

    def query(self, statement: str, host: str = REPLICA_HOST) -> object:
        """The first value that a statement gives, on the replica or its primary."""
        with self._connect(host) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def forget(self) -> None:
        """End it, and let the primary drop what it keeps for it."""
        self.kill()
        with self._connect(HOST) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s "
                "AND active_pid IS NOT NULL",
                (_SLOT,),
            )
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

    def _connect(self, host: str) -> psycopg.Connection:
        return psycopg.connect(
            host=host,
            port=self.port,
            dbname="postgres",
            user=ROLE,
            password=self._password_of_primary,
            connect_timeout=5,
            autocommit=True,
        )

    def _initialise(self) -> None:
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        source = f"host={HOST} port={self.port} user={ROLE} password={self._password_of_primary}"
        command: list[str | Path] = [self.binaries / "pg_basebackup", "-d", source, "-D", new]
        command += ["-R", "-C", "-S", _SLOT, "-X", "stream", "-c", "fast"]
        process = self._start_unprivileged(command, signal.SIGKILL)
        try:
            code = process.wait(self.deadline_s)
        finally:
            kill_tree(process)
        if code != 0:
            raise ConnectionFailedError(f"pg_basebackup failed with exit code {code}:\n{tail(self.log)}")
        new.rename(self._data)

    def _command(self) -> list[str | Path]:
        return [
            *super()._command(),
            f"--listen_addresses={REPLICA_HOST}",
            "--hot_standby=on",
            "--max_standby_streaming_delay=200ms",
            "--wal_retrieve_retry_interval=200ms",
            # To replay DROP DATABASE it waits for all processes, also for one whose client gave up while it logged in.
            "--authentication_timeout=5s",
        ]

    def _answers(self) -> bool:
        try:
            return self.query("SELECT pg_is_in_recovery()") is True
        except psycopg.OperationalError:
            return False
