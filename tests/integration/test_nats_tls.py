"""TLS to NATS: who is trusted, what is never sent, how a certificate is renewed, and how we leave who is silent."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors.errors import ConnectionFailedError
from connectors.jetstream import connect
from deploy.embedded import HOST
from tests.support.certificates import Authority
from tests.support.secure_nats import SecureNats, SecureNode
from tests.support.waiting import until


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureNats]:
    """A server of the test's own, with an authority of its own."""
    with SecureNats(tmp_path / "secure") as secure:
        yield secure


def test_a_certificate_of_another_authority_is_not_trusted(secure_nats: SecureNats, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    for ca_file in (other.file, None):  # of the system
        start = time.monotonic()
        with pytest.raises(ConnectionFailedError, match=r"not trusted \(.*\): check that SLATE_CA_FILE"):
            asyncio.run(connect(secure_nats.settings(None, "publisher", ca_file=ca_file), "test"))
        assert time.monotonic() - start < 10


def test_a_certificate_for_another_name_is_not_trusted(secure: SecureNats) -> None:
    renew(secure, hosts="nats-1.example.com")
    with pytest.raises(ConnectionFailedError, match=r"not trusted \(Hostname mismatch.*NATS_URL has a name"):
        asyncio.run(connect(secure.settings(None, "publisher"), "test"))


def test_a_client_comes_back_when_the_certificate_is_right_again(secure: SecureNats) -> None:
    node = secure.nodes[0]

    async def run() -> None:
        client = await connect(secure.settings(None, "publisher"), "test")
        node.kill()
        await asyncio.to_thread(secure.authority.issue, "nats", "nats-1.example.com")
        node.start()
        await until(lambda: isinstance(client.last_error, ssl.SSLCertVerificationError))
        await asyncio.to_thread(secure.authority.issue, "nats")
        node.reload()
        await until(lambda: client.is_connected, 15)
        await client.close()

    asyncio.run(run())


def test_a_password_is_never_sent_to_a_server_without_tls(secure_nats: SecureNats) -> None:
    heard = bytearray()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                client.sendall(b'INFO {"server_id":"N","version":"2.15.1","max_payload":1048576,"proto":1}\r\n')
                try:
                    while part := client.recv(4096):
                        heard.extend(part)
                except OSError:
                    continue

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        address = SecretStr(f"tls://publisher:hunter2@localhost:{listener.getsockname()[1]}")
        with pytest.raises(ConnectionFailedError, match="the password was not sent"):
            asyncio.run(connect(secure_nats.settings(None, "publisher", nats_url=address), "test"))
    assert b"hunter2" not in heard
    assert b"CONNECT" not in heard


def test_without_tls_nobody_comes_in(secure_nats: SecureNats) -> None:
    plain = SecretStr(secure_nats.url("publisher").replace("tls://", "nats://"))
    with pytest.raises(ConnectionFailedError, match="begin its address in NATS_URL with tls://"):
        asyncio.run(connect(secure_nats.settings(None, "publisher", nats_url=plain), "test"))


def test_a_server_that_is_silent_is_left_at_once(secure: SecureNats) -> None:
    """Over TLS the end of a connection is agreed on; asyncio would wait for it for 30 s."""
    node = secure.nodes[0]

    async def run() -> float:
        client = await connect(secure.settings(None, "publisher"), "test")
        node.pause()
        start = time.monotonic()
        await client.close()
        return time.monotonic() - start

    try:
        assert asyncio.run(run()) < 5
    finally:
        node.resume()


def renew(secure: SecureNats, hosts: str = "localhost,127.0.0.1") -> None:
    """Give the server another certificate, as an operator does."""
    node = secure.nodes[0]
    secure.authority.issue("nats", hosts)
    node.reload()
    asyncio.run(until(lambda: "Reloaded server configuration" in node.log.read_text()))


def served(node: SecureNode, ca_file: Path) -> dict[str, bytes]:
    """The certificates that a server shows to clients, and to browsers."""
    context = ssl.create_default_context(cafile=ca_file)
    found = {}
    for name, port in (("client", node.port), ("websocket", node.websocket_port)):
        with socket.create_connection((HOST, port), timeout=5) as raw:
            while name == "client" and not raw.recv(4096).endswith(b"\r\n"):
                pass
            with context.wrap_socket(raw, server_hostname="localhost") as secured:
                shown = secured.getpeercert(binary_form=True)
                assert shown is not None
                found[name] = shown
    return found


def test_a_renewed_certificate_is_shown_after_a_reload_and_nobody_is_put_out(secure: SecureNats) -> None:
    node = secure.nodes[0]

    async def run() -> None:
        client = await connect(secure.settings(None, "publisher"), "test-stays")
        before = await asyncio.to_thread(served, node, secure.ca_file)
        await asyncio.to_thread(renew, secure)
        after = await asyncio.to_thread(served, node, secure.ca_file)
        assert before["client"] == before["websocket"] != after["client"] == after["websocket"]
        await client.flush()
        assert client.stats["reconnects"] == 0
        await client.close()

    asyncio.run(run())
