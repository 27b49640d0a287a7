"""Fixtures of tests with real servers that several of them share."""

from pathlib import Path

import pytest
import redis

from connectors.settings import Settings
from deploy.servers import ValkeyServer
from deploy.unity_mcp import UnityMcpServer
from tests.support.sessions import Play


@pytest.fixture
def play(settings: Settings, valkey: ValkeyServer, unity_mcp: UnityMcpServer, tmp_path: Path) -> Play:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()  # what users did in earlier tests
    return Play(settings, unity_mcp, tmp_path)
