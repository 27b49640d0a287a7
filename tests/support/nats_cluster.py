"""Three NATS servers as one, of which any may be killed."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.jetstream import connect
from connectors.settings import Settings
from deploy.embedded import HOST, free_port
from deploy.servers import NATS_MAX_PAYLOAD, NatsServer
from tests.support.waiting import eventually


class NatsNode(NatsServer):
    """One of them; `routes` are the ports on which they talk to each other, its own among them."""

    def __init__(self, directory: Path, number: int, routes: list[int], password: str) -> None:
        super().__init__(directory, user="slate", password=password)
        self._number = number
        self._routes = routes
        self._identity = f"n{number}"

    @property
    def identity(self) -> str:
        """How the others call it."""
        return self._identity

    def _prepare(self) -> None:
        routes = [f"nats://{HOST}:{port}" for port in self._routes]
        configuration = {
            "server_name": self._identity,
            "listen": f"{HOST}:{self.port}",
            "max_payload": NATS_MAX_PAYLOAD,
            "authorization": {"user": self._user, "password": self._password},
            "jetstream": {"store_dir": str(self.directory / "jetstream"), "sync_interval": "10s"},
            "cluster": {"name": "slate", "listen": f"{HOST}:{self._routes[self._number]}", "routes": routes},
        }
        self._write("nats.conf", json.dumps(configuration, indent=2))


class NatsCluster:
    """The three; `url` names them all."""

    def __init__(self, directory: Path) -> None:
        routes = [free_port() for _ in range(3)]
        password = secrets.token_hex(16)
        self.nodes = [NatsNode(directory / f"nats-{number}", number, routes, password) for number in range(3)]

    @property
    def url(self) -> str:
        """`NATS_URL`."""
        return ",".join(node.environment()["NATS_URL"] for node in self.nodes)

    def start(self) -> None:
        """Start those that do not run."""
        for node in self.nodes:
            node.start()

    def leader(self, settings: Settings) -> NatsNode:
        """Who leads the stream's replicas, when all of them are there and know all."""

        async def ask() -> tuple[str, list[Any]]:
            client = await connect(settings, "test-cluster")
            try:
                found = (await client.jetstream(timeout=2).stream_info(settings.stream)).cluster
                assert found is not None
                return found.leader or "", found.replicas or []
            finally:
                await client.close()

        def whole() -> NatsNode | None:
            try:
                leader, others = asyncio.run(ask())
            except Exception as error:  # noqa: BLE001 - they are choosing one
                raise AssertionError(repr(error)) from None
            assert len([one for one in others if one.current]) == 2, others
            return next((node for node in self.nodes if node.identity == leader), None)

        return eventually(whole, 30, what="a leader, and two that follow")  # type: ignore[return-value]


@contextmanager
def nats_cluster(directory: Path) -> Iterator[NatsCluster]:
    """Three that run and have chosen who leads."""
    cluster = NatsCluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
