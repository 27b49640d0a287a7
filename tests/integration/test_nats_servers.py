"""The configuration of `deploy/nats` itself, and three servers that run with it."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors.errors import ConnectionFailedError
from connectors.jetstream import connect, ensure_stream
from connectors.publisher import Publisher
from deploy.embedded import HOST, free_port
from tests.support.secure_nats import CONFIGURATION, SecureNats, SecureNode
from tests.support.waiting import eventually

BCRYPT = "$2b$11$abcdefghijklmnopqrstuuViuGI07N4McP9Kl.tD6XMEzyuvcY8LG"
"""Of `secret`."""


@pytest.mark.parametrize("name", ["spark.conf", "cluster.conf"])
def test_nats_understands_the_configuration_with_the_example_of_its_environment(
    name: str, secure_nats: SecureNats, tmp_path: Path
) -> None:
    example = _example()
    node = secure_nats.nodes[0]
    files = {one: node.environment()[one] for one in ("NATS_CERT", "NATS_KEY", "NATS_CA", "NATS_CALLOUT_ISSUER")}
    done = subprocess.run(
        [node.program, "--config", CONFIGURATION / name, "-t"],
        env={**example, **files, "NATS_STORE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _example() -> dict[str, str]:
    """The example, as systemd reads it."""
    lines = (CONFIGURATION / "nats.env.example").read_text().splitlines()
    pairs = [one.split("=", 1) for one in lines if one and not one.startswith("#")]
    return {name: value.removeprefix("'").removesuffix("'") for name, value in pairs}


def test_the_example_has_each_variable_and_the_monitor_listens_on_this_machine_only() -> None:
    used = set()
    for path in CONFIGURATION.glob("*.conf"):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        used |= set(re.findall(r"\$(NATS_\w+)", "\n".join(lines)))
    example = _example()
    assert set(example) == used
    assert example["NATS_MONITOR"].startswith("127.0.0.1:")
    assert [value for name, value in example.items() if name.endswith("PASSWORD")] == ['"change me"'] * 5 + [
        '"change-me"'
    ]


def test_a_password_may_be_a_bcrypt_hash(tmp_path: Path) -> None:
    secure = SecureNats(tmp_path / "secure")
    secure.passwords["publisher"] = "secret"
    secure.nodes[0].environment()["NATS_PUBLISHER_PASSWORD"] = f'"{BCRYPT}"'
    with secure:
        asyncio.run(come(secure))
        secure.passwords["publisher"] = BCRYPT
        with pytest.raises(ConnectionFailedError, match="refuses us"):
            asyncio.run(come(secure))


async def come(secure: SecureNats) -> None:
    await (await connect(secure.settings(None, "publisher"), "test")).close()


def test_three_servers_take_events_while_one_is_away_and_clients_learn_of_the_others(tmp_path: Path) -> None:
    with SecureNats(tmp_path / "three", nodes=3) as secure:
        first = secure.url("publisher").split(",")[0]
        asyncio.run(ensure_stream(secure.settings(None, "admin")))

        async def run() -> None:
            publisher = await Publisher.connect(secure.settings(None, "publisher", nats_url=SecretStr(first)))
            await publisher.publish("spark.delta.x", b"{}", msg_id="1")
            await publisher.flush()
            known = publisher._client.discovered_servers
            assert {one.scheme for one in known} == {"tls"}
            assert {one.port for one in known} >= {node.port for node in secure.nodes[1:]}
            await asyncio.to_thread(secure.nodes[0].kill)
            await publisher.publish("spark.delta.x", b"{}", msg_id="2")
            await publisher.flush()
            await publisher.close()
            others = ",".join(secure.url("admin").split(",")[1:])
            client = await connect(secure.settings(None, "admin", nats_url=SecretStr(others)), "test")
            info = await client.jetstream().stream_info("SPARK")
            assert info.config.num_replicas == 3
            assert info.state.messages == 2
            await client.close()

        asyncio.run(run())


def test_a_server_without_the_password_of_routes_or_a_certificate_does_not_join(tmp_path: Path) -> None:
    with SecureNats(tmp_path / "three", nodes=3) as secure:
        routes = {node.directory.name: len(node.told("routez")["routes"]) for node in secure.nodes}
        told = secure.nodes[0].environment()
        word = json.loads(told["NATS_ROUTE_PASSWORD"])
        stranger = SecureNode(
            tmp_path / "nats-9",
            CONFIGURATION / "cluster.conf",
            {
                **told,
                "NATS_ROUTE_LISTEN": f"{HOST}:{free_port()}",
                "NATS_ROUTES": told["NATS_ROUTES"].replace(word, "wrong"),
            },
        )
        try:
            stranger.start()
            eventually(lambda: "Authorization Violation" in stranger.log.read_text(), 15)
        finally:
            stranger.kill()
        for node in secure.nodes:
            assert len(node.told("routez")["routes"]) == routes[node.directory.name]
        port = int(secure.nodes[0].environment()["NATS_ROUTE_LISTEN"].split(":")[1])
        context = ssl.create_default_context(cafile=secure.ca_file)
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
            greeting(port, context)
        context.load_cert_chain(told["NATS_CERT"], told["NATS_KEY"])
        assert greeting(port, context).startswith(b"INFO ")


def greeting(port: int, context: ssl.SSLContext) -> bytes:
    """What a server says first on its port for routes, which begins with TLS."""
    with (
        socket.create_connection((HOST, port), timeout=15) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        return secured.recv(4096)
