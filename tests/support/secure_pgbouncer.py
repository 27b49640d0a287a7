"""PgBouncer as operators run it, for `tests.support.secure_postgres`."""

import configparser
import os
import signal
import subprocess
from pathlib import Path

import psycopg

from deploy.embedded import HOST, Server, plain_environment
from deploy.processes import spawn
from deploy.servers import DATABASE
from tests.support.certificates import Certificate
from tests.support.programs import need_program

_INI = Path(__file__).parents[2] / "deploy" / "pgbouncer" / "pgbouncer.ini"
_NOBODY = 65534


class PgBouncer(Server):
    """PgBouncer with `deploy/pgbouncer/pgbouncer.ini`."""

    name = "PgBouncer"

    def __init__(self, directory: Path, certificate: Certificate, ca_file: Path, secret: str) -> None:
        super().__init__(directory)
        self._certificate = certificate
        self._ca_file = ca_file
        self._secret = secret
        self._hosts = ("", "", 0)
        self._uid = _NOBODY if os.geteuid() == 0 else None

    @property
    def program(self) -> Path:
        """`pgbouncer`."""
        return need_program("pgbouncer", "pgbouncer")

    def environment(self) -> dict[str, str]:
        """Where both databases are."""
        return {
            "SLATE_DB_HOST": HOST,
            "SLATE_DB_PORT": str(self.port),
            "SLATE_DB_NAME": "spark",
            "SLATE_DB_REPLICA_HOST": HOST,
            "SLATE_DB_REPLICA_NAME": "spark_ro",
        }

    def renew(self, certificate: Certificate) -> None:
        """Show another certificate from now on."""
        self._certificate = certificate
        self._copy_certificates()
        self._reload()

    def point(self, primary: str, replica: str, port: int) -> None:
        """Send `spark` and `spark_ro` to these hosts; when it runs, at once."""
        self._hosts = (primary, replica, port)
        if self.pid is not None:
            self._write_configuration()
            self._reload()

    def _reload(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)

    def _copy_certificates(self) -> None:
        for source, name in (
            (self._certificate.pem, "server.pem"),
            (self._certificate.key, "server.key"),
            (self._ca_file, "ca.pem"),
        ):
            path = self._write(name, source.read_text())
            if self._uid is not None:
                os.chown(path, self._uid, self._uid)

    def _prepare(self) -> None:
        self._copy_certificates()
        self._write("userlist.txt", f'"slate_pooler" "{self._secret}"\n')
        self._write_configuration()
        if self._uid is not None:
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, self._uid, self._uid)

    def _write_configuration(self) -> None:
        primary, replica, port = self._hosts
        ini = configparser.RawConfigParser()
        ini.read(_INI)
        for name, host in (("spark", primary), ("spark_ro", replica)):
            assert ini.has_option("databases", name)
            ini.set("databases", name, f"host={host} port={port} dbname={DATABASE}")
        for option, value in {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": self.directory,
            "client_tls_cert_file": self.directory / "server.pem",
            "client_tls_key_file": self.directory / "server.key",
            "server_tls_ca_file": self.directory / "ca.pem",
            "auth_file": self.directory / "userlist.txt",
        }.items():
            ini.set("pgbouncer", option, str(value))
        ini.remove_option("pgbouncer", "logfile")
        ini.remove_option("pgbouncer", "pidfile")
        with (self.directory / "pgbouncer.ini").open("w") as file:
            ini.write(file)
        (self.directory / "pgbouncer.ini").chmod(0o644)

    def _command(self) -> list[str | Path]:
        return [self.program, self.directory / "pgbouncer.ini"]

    def _spawn(self) -> subprocess.Popen[bytes]:
        return spawn(
            self._command(),
            log=self.log,
            environment=plain_environment(),
            directory=self.directory,
            uid=self._uid,
        )

    def _answers(self) -> bool:
        try:  # its certificate is not looked at here, and whom it asks for the role may be away
            psycopg.connect(host=HOST, port=self.port, dbname="spark", user="nobody", connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return "refused" not in str(error)
        return True
