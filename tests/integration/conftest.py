"""Fixtures of tests with real servers that several of them share."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from deploy.servers import ValkeyServer
from deploy.unity_mcp import UnityMcpServer
from tests.support.secure_nats import SecureNats
from tests.support.sessions import Play


@pytest.fixture
def play(settings: Settings, valkey: ValkeyServer, unity_mcp: UnityMcpServer, tmp_path: Path) -> Play:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()  # what users did in earlier tests
    return Play(settings, unity_mcp, tmp_path)


@pytest.fixture(scope="session")
def secure_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    """NATS of `deploy/nats` with an empty stream, for tests that leave it as it is."""
    with SecureNats(tmp_path_factory.mktemp("secure-nats")) as secure:
        asyncio.run(ensure_stream(secure.settings(Settings.load(local=False), "admin")))
        yield secure
