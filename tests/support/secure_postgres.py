"""PostgreSQL as operators secure it: primary, streaming replica and PgBouncer, from the files of `deploy/`.

    with secure_postgres() as stack:
        settings = stack.settings("writer")           # through PgBouncer: `spark`, and `spark_ro` for reads
        settings = stack.settings("owner", direct=True)     # straight to the servers, both named
        stack.primary.kill()
        stack.promote()                               # the replica is the primary now, PgBouncer knows
        stack.rebuild()                               # and the other one follows it

Roles are `owner`, `writer`, `reader` and `grafana`, each with a password of its own. Both servers have one port, on
127.0.0.1 and 127.0.0.2; all speak TLS only, with certificates of `stack.authority`. What differs from the files are
places (ports, addresses, certificates), the size of memory, and that `postgres` has a password.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from connectors.errors import ConnectionFailedError
from connectors.schema import migrate
from connectors.settings import Settings
from connectors.sql import read
from deploy.embedded import HOST, plain_environment
from deploy.processes import environment_of, kill_tree, spawn, tail
from deploy.servers import DATABASE, PostgresServer
from tests.support.certificates import Authority, Certificate
from tests.support.processes import open_directory
from tests.support.programs import need_program
from tests.support.secure_pgbouncer import PgBouncer
from tests.support.waiting import eventually

REPLICA_HOST = "127.0.0.2"
HOSTS = f"localhost,{HOST},{REPLICA_HOST}"
"""Names in the certificates of both servers and of PgBouncer."""
ROLES = {"owner": "slate_owner", "writer": "slate_writer", "reader": "slate_reader", "grafana": "grafana"}

_DEPLOY = Path(__file__).parents[2] / "deploy"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_basebackup"), key=lambda path: int(path.parts[4]))
    if not found:
        pytest.skip("PostgreSQL with OpenSSL is missing: apt-get install postgresql")
    return found[-1].parent


class SecureServer(PostgresServer):
    """Debian's PostgreSQL with `deploy/postgresql/*.conf`, made by `make` when it has no data."""

    def __init__(
        self, directory: Path, host: str, port: int, certificate: Certificate, make: Callable[["SecureServer"], None]
    ) -> None:
        super().__init__(directory, port=port, password=secrets.token_hex(16))
        self.host = host
        self.binaries = _binaries()
        self._certificate = certificate
        self._make = make

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._data

    @property
    def superuser_password(self) -> str:
        """Of `postgres`."""
        return self._password

    def environment(self) -> dict[str, str]:
        """Where it is; who comes needs a role."""
        return {"SLATE_DB_HOST": self.host, "SLATE_DB_PORT": str(self.port), "SLATE_DB_NAME": DATABASE}

    def admin(self, database: str = DATABASE) -> psycopg.Connection:
        """A connection of the superuser, in autocommit mode."""
        return psycopg.connect(
            host=str(self.directory),
            port=self.port,
            dbname=database,
            user="postgres",
            password=self._password,
            connect_timeout=5,
            autocommit=True,
        )

    def value(self, statement: str) -> Any:
        """The first value that a statement gives the superuser."""
        with self.admin() as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def same_password(self, other: "SecureServer") -> None:
        """The superuser of a copy has the password of the original."""
        self._password = other._password

    def run(self, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        """Run one of PostgreSQL's programs, or a script that needs them, as the server's user.

        Raises:
            ConnectionFailedError: it failed; the message has the end of the log.
        """
        begin = self.log.stat().st_size if self.log.exists() else 0
        path = f"{self.binaries}:{os.environ['PATH']}"
        program = Path(command[0])
        if program.is_absolute():  # a copy, for the server's user may not come to the original
            program = Path(shutil.copy(program, self.directory))
        process = spawn(
            [program if program.is_absolute() else self.binaries / program, *command[1:]],
            log=self.log,
            environment={**plain_environment(), "PATH": path, **(environment or {})},
            directory=self.directory,
            uid=self._uid,
        )
        try:
            code = process.wait(self.deadline_s)
        finally:
            kill_tree(process)
        if code != 0:
            raise ConnectionFailedError(f"{command[0]} failed ({code}):\n{tail(self.log, since=begin)}")

    def initdb(self) -> None:
        """A cluster of its own, as Debian makes one, with checksums."""
        password = self.own(self._write("password.new", self._password))
        command: list[str | Path] = ["initdb", "-D", self._data, "--username=postgres", f"--pwfile={password}"]
        self.run(*command, "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--auth=scram-sha-256")
        password.unlink()

    def own(self, path: Path) -> Path:
        """Give a file to the server's user."""
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)
        return path

    def renew(self, certificate: Certificate) -> None:
        """Show another certificate from now on."""
        self._certificate = certificate
        self._copy_certificate()
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)

    def _copy_certificate(self) -> None:
        for source, name in ((self._certificate.pem, "server.pem"), (self._certificate.key, "server.key")):
            self.own(self._write(name, source.read_text()))

    def _prepare(self) -> None:
        self._copy_certificate()
        shutil.copy(_DEPLOY / "postgresql" / "postgresql.conf", self.directory)
        hba = (_DEPLOY / "postgresql" / "pg_hba.conf").read_text()
        self.own(self._write("pg_hba.conf", f"local all postgres scram-sha-256\n{hba}"))
        super()._prepare()

    def _initialise(self) -> None:
        self._make(self)

    def _command(self) -> list[str | Path]:
        settings = {
            "config_file": self.directory / "postgresql.conf",
            "hba_file": self.directory / "pg_hba.conf",
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.directory,
            "ssl_cert_file": self.directory / "server.pem",
            "ssl_key_file": self.directory / "server.key",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",  # as in `PostgresServer`
        }
        return [self.program, "-D", self._data, *(f"--{name}={value}" for name, value in settings.items())]

    def _answers(self) -> bool:
        try:
            with self.admin("postgres") as connection:
                connection.execute("SELECT 1")
                return True
        except psycopg.OperationalError:
            return False


class SecurePostgres:
    """Both servers and the pooler; see the module. `primary` and `replica` change places in `promote`."""

    def __init__(self, directory: Path) -> None:
        (directory / "tls").mkdir()
        self.authority = Authority(directory / "tls")
        self._passwords = {role: secrets.token_hex(16) for role in (*ROLES.values(), "slate_pooler", "slate_replica")}
        certificate = self.authority.issue("postgresql", HOSTS)
        self.primary = SecureServer(directory / "pg1", HOST, 0, certificate, SecureServer.initdb)
        self.replica = SecureServer(directory / "pg2", REPLICA_HOST, self.primary.port, certificate, self._copy_primary)
        self.pooler = PgBouncer(
            directory / "pgbouncer",
            self.authority.issue("pgbouncer", HOSTS),
            self.authority.file,
            self._passwords["slate_pooler"],
        )

    def start(self) -> None:
        """Start all three, with roles and tables."""
        self.primary.start()
        self._roles()
        self._point()
        self.pooler.start()
        migrate(self.settings("owner"))
        with self.primary.admin() as connection:
            connection.execute(read("grafana/role.sql").encode())
            self._give_password(connection, "grafana")
        self.replica.start()

    def stop(self) -> None:
        """End all three."""
        for server in (self.pooler, self.replica, self.primary):
            server.kill()

    def password(self, role: str) -> str:
        """The password of a role, by its name in PostgreSQL."""
        return self._passwords[role]

    def settings(self, role: str, *, direct: bool = False, **overrides: Any) -> Settings:
        """Settings of `owner`, `writer`, `reader` or `grafana`, through PgBouncer or straight to the servers.

        Args:
            role: whose name and password they have.
            direct: both hosts are in SLATE_DB_HOST, the replica in SLATE_DB_REPLICA_HOST.
            overrides: more settings, or others, by field name.
        """
        fields: dict[str, Any] = {
            "db_host": HOST,
            "db_port": self.pooler.port,
            "db_name": "spark",
            "db_replica_host": HOST,
            "db_replica_name": "spark_ro",
            "db_user": ROLES[role],
            "db_password": self._passwords[ROLES[role]],
            "ca_file": self.authority.file,
            "metrics_port": 0,
        }
        if direct:
            fields |= {"db_host": f"{HOST},{REPLICA_HOST}", "db_port": self.primary.port}
            fields |= {"db_replica_host": REPLICA_HOST, "db_replica_name": None}
        return Settings.load(local=False, **(fields | overrides))

    def environment(self, role: str, *, direct: bool = False, **overrides: Any) -> dict[str, str]:
        """The same as variables for a process."""
        return environment_of(self.settings(role, direct=direct, **overrides))

    def new_password(self, role: str) -> None:
        """Change a role's password, by its name in PostgreSQL."""
        self._passwords[role] = secrets.token_hex(16)
        with self.primary.admin() as connection:
            self._give_password(connection, role)

    def caught_up(self) -> bool:
        """Whether the replica has replayed all that the primary has written."""
        position = self.primary.value("SELECT pg_current_wal_lsn()")
        return bool(self.replica.value(f"SELECT pg_last_wal_replay_lsn() >= '{position}'"))

    def promote(self) -> None:
        """Make the replica the primary, and send PgBouncer's databases there. The old primary should be down."""
        assert self.replica.value("SELECT pg_promote()") is True
        self.primary, self.replica = self.replica, self.primary
        self.pooler.point(self.primary.host, self.primary.host, self.primary.port)

    def rebuild(self) -> None:
        """Make the replica anew, from the primary: what is left of the old primary, or whatever it is."""
        self.replica.kill()
        shutil.rmtree(self.replica.data)
        self.replica._make = self._copy_primary
        self.replica.start()
        self._point()

    def _point(self) -> None:
        self.pooler.point(self.primary.host, self.replica.host, self.primary.port)

    def _roles(self) -> None:
        with self.primary.admin("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        with self.primary.admin() as connection:
            connection.execute(read("roles/roles.sql").encode())
            for role in self._passwords:
                if role != "grafana":
                    self._give_password(connection, role)

    def _give_password(self, connection: psycopg.Connection, role: str) -> None:
        """As psql's \\password does: what the server gets is a verifier."""
        verifier = connection.pgconn.encrypt_password(
            self._passwords[role].encode(), role.encode(), b"scram-sha-256"
        ).decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), verifier))

    def replication(self, server: SecureServer) -> dict[str, str]:
        """The environment of pg_basebackup on a server's machine."""
        ca_file = server.own(server._write("ca.pem", self.authority.file.read_text()))
        passwords = server.own(server._write("pgpass", f"*:*:*:slate_replica:{self._passwords['slate_replica']}\n"))
        return {
            "PGHOST": self.primary.host,
            "PGPORT": str(self.primary.port),
            "PGUSER": "slate_replica",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(ca_file),
            "PGPASSFILE": str(passwords),
        }

    def _copy_primary(self, server: SecureServer) -> None:
        server.same_password(self.primary)
        slot = f"slate_{server.directory.name}"
        command: list[str | Path] = ["pg_basebackup", "-D", server.data, "--write-recovery-conf", f"--slot={slot}"]
        command += ["--wal-method=stream", "--checkpoint=fast"]
        if not self.primary.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'"):
            command.append("--create-slot")
        used = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        eventually(lambda: self.primary.value(used) == 0, 30, what="nobody uses its slot")
        server.run(*command, environment=self.replication(server))


@contextmanager
def secure_postgres() -> Iterator[SecurePostgres]:
    """Give all of it, running and migrated, in a directory of its own."""
    need_program("pgbouncer", "pgbouncer")
    _binaries()
    with open_directory() as directory:
        stack = SecurePostgres(directory)
        try:
            stack.start()
            eventually(stack.caught_up, 30, what="the replica follows")
            yield stack
        finally:
            stack.stop()
