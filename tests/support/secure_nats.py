"""NATS as `deploy/nats` configures it: TLS everywhere, users with permissions, WebSockets; one server or three.

    with SecureNats(directory, nodes=3) as secure:
        worker = secure.settings(settings, "worker")    # address, inbox, authority and stream of that user

The stream is called SPARK, as the permissions have it. Nodes are `deploy.embedded.Server`s: stop, kill and pause them.
"""

import json
import secrets
import signal
import socket
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import SecretStr

from connectors.settings import Settings
from deploy.embedded import HOST, Server, free_port, plain_environment
from deploy.processes import spawn
from realtime.nkey import Signer, new_seed
from tests.support.certificates import HERE, Authority
from tests.support.waiting import eventually

CONFIGURATION: Final = Path(__file__).parents[2] / "deploy" / "nats"
INBOXES: Final = {
    "publisher": "_INBOX_pub",
    "worker": "_INBOX_wrk",
    "admin": "_INBOX_adm",
    "monitor": "_INBOX_mon",
    "callout": "_INBOX",  # it has none: nobody answers it
}
ORIGIN: Final = "https://app.example.com"
"""The one whose pages may connect."""


class SecureNode(Server):
    """One server; `variables` are its environment."""

    name = "NATS"

    def __init__(self, directory: Path, configuration: Path, variables: dict[str, str]) -> None:
        super().__init__(directory)
        self.websocket_port, self.monitor_port = free_port(), free_port()
        self._configuration = configuration
        self._variables = {
            **variables,
            "NATS_SERVER_NAME": directory.name,
            "NATS_LISTEN": f"{HOST}:{self.port}",
            "NATS_MONITOR": f"{HOST}:{self.monitor_port}",
            "NATS_WEBSOCKET_LISTEN": f"{HOST}:{self.websocket_port}",
            "NATS_STORE_DIR": str(self.directory / "data"),
            "NATS_ADVERTISE": f"localhost:{self.port}",
        }

    @property
    def program(self) -> Path:
        """`nats-server`."""
        return Path(sysconfig.get_path("scripts")) / "nats-server"

    def environment(self) -> dict[str, str]:
        """What nats-server reads; its passwords are in it."""
        return self._variables

    def reload(self) -> None:
        """SIGHUP: read configuration and certificates again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def healthy(self) -> bool:
        """Whether it has a stream's leader to turn to, and is up to date."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.monitor_port}/healthz", timeout=2) as answer:
                return int(answer.status) == 200
        except (OSError, urllib.error.HTTPError):
            return False

    def told(self, page: str) -> dict[str, Any]:
        """A page of its monitor, such as `varz`."""
        with urllib.request.urlopen(f"http://{HOST}:{self.monitor_port}/{page}", timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def violations(self) -> list[str]:
        """Lines of its log about what somebody was refused."""
        return [line for line in self.log.read_text().splitlines() if "Violation" in line]

    def _prepare(self) -> None:
        """Everything is in the environment."""

    def _command(self) -> list[str | Path]:
        return [self.program, "--config", self._configuration]

    def _spawn(self) -> Any:
        return spawn(
            self._command(),
            log=self.log,
            environment=plain_environment() | self._variables,
            directory=self.directory,
            death_signal=self._death_signal,
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as client, client.makefile("rb") as stream:
                info: dict[str, Any] = json.loads(stream.readline().removeprefix(b"INFO "))
                return bool(info.get("server_name") == self.directory.name and info.get("tls_required"))
        except (OSError, ValueError):
            return False


class SecureNats:
    """One server or a cluster of three, as a context manager.

    Args:
        directory: of its own.
        nodes: 1 or 3.
        configuration: a directory with the files of `deploy/nats`.
        authority: signs its certificate; its own unless given. `authority.issue("nats")` and `reload` renew it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 1,
        authority: Authority | None = None,
        configuration: Path = CONFIGURATION,
    ) -> None:
        self.authority = authority or Authority(directory / "tls")
        self.ca_file = self.authority.file
        certificate = self.authority.issue("nats", HERE)
        self.callout_seed = new_seed()
        self.passwords = {name: secrets.token_hex(16) for name in INBOXES}
        self.passwords["worker"] = str(secrets.randbelow(10**16)).zfill(16)  # digits only: they are no number
        routes = [free_port() for _ in range(nodes)] if nodes > 1 else []
        of_routes = secrets.token_hex(16)
        variables = {
            "NATS_CERT": str(certificate.pem),
            "NATS_KEY": str(certificate.key),
            "NATS_CA": str(self.ca_file),
            "NATS_WEBSOCKET_ORIGINS": json.dumps([ORIGIN]),
            "NATS_MAX_FILE_STORE": "2GB",
            "NATS_CALLOUT_ISSUER": Signer(self.callout_seed).public,
            "NATS_ROUTES": json.dumps([f"tls://route:{of_routes}@localhost:{port}" for port in routes]),
            "NATS_ROUTE_PASSWORD": json.dumps(of_routes),
            **{f"NATS_{name.upper()}_PASSWORD": json.dumps(word) for name, word in self.passwords.items()},
        }
        configuration = configuration / ("cluster.conf" if nodes > 1 else "spark.conf")
        self.nodes = [
            SecureNode(
                directory / f"nats-{number}",
                configuration,
                variables | ({"NATS_ROUTE_LISTEN": f"{HOST}:{routes[number]}"} if routes else {}),
            )
            for number in range(nodes)
        ]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL all."""
        for node in self.nodes:
            node.kill()

    def start(self) -> None:
        """Start those that do not run, and wait until all know each other."""
        for node in self.nodes:
            node.resume()
            node.start()
        for node in self.nodes:
            eventually(node.healthy, 30, what=f"{node.directory.name} is healthy")

    def url(self, user: str) -> str:
        """`NATS_URL` of a user, with all nodes."""
        login = f"{user}:{self.passwords[user]}"
        return ",".join(f"tls://{login}@localhost:{node.port}" for node in self.nodes)

    @property
    def websocket(self) -> str:
        """`NEXT_PUBLIC_NATS_URL`: of the first node."""
        return f"wss://localhost:{self.nodes[0].websocket_port}"

    def settings(self, base: Settings | None, user: str, **more: Any) -> Settings:
        """Settings of somebody who works as this user, with the rest of `base`, whose PostgreSQL has no TLS."""
        base = base or Settings.load(local=False)
        return base.model_copy(
            update={
                "nats_url": SecretStr(self.url(user)),
                "nats_inbox": INBOXES[user],
                "ca_file": self.ca_file,
                "stream": "SPARK",
                "stream_replicas": len(self.nodes),
                **({"db_sslmode": "disable"} if base.ca_file is None else {}),
                **more,
            }
        )

    def service(self, base: Settings | None, **more: Any) -> Settings:
        """Settings of the HTTP service, which lets browsers in."""
        return self.settings(
            base,
            "publisher",
            nats_callout_url=SecretStr(self.url("callout")),
            nats_callout_seed=self.callout_seed,
            **more,
        )

    def violations(self) -> list[str]:
        """What somebody was refused, of all nodes."""
        return [line for node in self.nodes for line in node.violations()]
