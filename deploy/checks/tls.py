"""TLS of each server: whether what crosses the network is encrypted, and until when certificates are valid."""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from connectors.errors import ConfigurationError
from connectors.settings import Settings
from deploy.checks.row import Check, State, first_line

WARN_DAYS: Final = 21.0
FAIL_DAYS: Final = 3.0
"""Days that a certificate is still valid, below which it is reported."""

_TIMEOUT_S: Final = 3.0
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)  # PostgreSQL's protocol, "SSLRequest"


@dataclass(frozen=True)
class _Server:
    """A server, how TLS begins on its connection, and which setting would switch it on."""

    name: str
    host: str
    port: int
    begin: Callable[[socket.socket], None]
    encrypted: bool
    remedy: str


def check_tls(settings: Settings) -> Iterator[Check]:
    """Certificates of the servers and of the authority; connections that are open to others."""
    try:
        context = settings.tls()
    except ConfigurationError as error:
        yield Check("TLS", "fail", first_line(error), "name a file of certificates in PEM in SLATE_CA_FILE")
        return
    if settings.ca_file is not None:
        ends = [_end(str(one["notAfter"])) for one in context.get_ca_certs()]
        if ends:
            yield _validity("authority", min(ends), f"put its successor into {settings.ca_file}, beside it")
    for server in _servers(settings):
        if server.encrypted:
            yield from _certificate(server, context)
        elif not _is_here(server.host):
            yield Check(
                f"TLS of {server.name}",
                "warn",
                f"passwords and events go to {server.host} unencrypted",
                server.remedy,
            )


def _servers(settings: Settings) -> Iterator[_Server]:
    mode = settings.db_sslmode or ("verify-full" if settings.ca_file is not None else "prefer")
    for host in filter(None, [*(settings.db_host or "").split(","), settings.db_replica_host]):
        if not host.startswith("/"):
            remedy = "set SLATE_CA_FILE, or SLATE_DB_SSLMODE=verify-full; docs/postgresql.md"
            yield _Server("PostgreSQL", host, settings.db_port, _postgres, mode == "verify-full", remedy)
    if settings.nats_url is not None:
        for url in map(urlsplit, settings.nats_servers()):
            if url.hostname:
                remedy = "begin NATS_URL with tls://; docs/nats.md"
                yield _Server("NATS", url.hostname, url.port or 4222, _nats, url.scheme == "tls", remedy)
    if settings.redis_host is not None:
        remedy = "set SLATE_REDIS_TLS=true; docs/redis.md"
        yield _Server("Redis", settings.redis_host, settings.redis_port, _at_once, settings.redis_tls, remedy)


def _postgres(connection: socket.socket) -> None:
    connection.sendall(_SSL_REQUEST)
    if connection.recv(1) != b"S":
        raise ConnectionError("it has no TLS")


def _nats(connection: socket.socket) -> None:
    greeting = b""
    while not greeting.endswith(b"\n"):
        if not (more := connection.recv(4096)) or len(greeting) > 1 << 16:
            raise ConnectionError("it is no NATS server")
        greeting += more


def _at_once(connection: socket.socket) -> None:
    """Nothing comes before TLS."""


def _certificate(server: _Server, context: ssl.SSLContext) -> Iterator[Check]:
    name = f"TLS of {server.name}"
    renew = "renew it (deploy/tls/certificates.sh) and tell the server to read it again"
    try:
        with socket.create_connection((server.host, server.port), _TIMEOUT_S) as plain:
            server.begin(plain)
            with context.wrap_socket(plain, server_hostname=server.host) as encrypted:
                certificate = encrypted.getpeercert()
    except ssl.SSLCertVerificationError as error:
        remedy = (
            renew
            if "expired" in error.verify_message
            else f"SLATE_CA_FILE must hold its authority, and the certificate the name {server.host}"
        )
        yield Check(name, "fail", f"{server.host}:{server.port}: {error.verify_message}", remedy)
    except (OSError, ConnectionError) as error:
        yield Check(
            name, "fail", f"{server.host}:{server.port}: {first_line(error)}", "switch TLS on in its configuration"
        )
    else:
        if certificate is not None:
            yield _validity(name, _end(str(certificate["notAfter"])), renew, f"{server.host}:{server.port}, ")


def _validity(name: str, end: datetime, remedy: str, where: str = "") -> Check:
    days = (end - datetime.now(UTC)).total_seconds() / 86_400
    state: State = "fail" if days < FAIL_DAYS else "warn" if days < WARN_DAYS else "ok"
    return Check(name, state, f"{where}valid until {end:%Y-%m-%d}, {days:.0f} days", "" if state == "ok" else remedy)


def _end(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
