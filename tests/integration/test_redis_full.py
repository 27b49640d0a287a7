"""Redis without room (`noeviction`): it refuses to write, as good as away, and is used again when it has room."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from connectors.limits import Limiter, LimitExceededError, Window
from connectors.read_cache import ReadCache
from deploy.servers import ValkeyServer
from tests.support.redis_client import connected, in_loop


def away(part: str) -> float:
    return REGISTRY.get_sample_value("spark_redis_away", {"part": part}) or 0.0


@asynccontextmanager
async def full(client: "Redis") -> AsyncIterator[None]:
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        await client.config_set("maxmemory", "0")


@in_loop
async def test_limits_hold_in_each_process_and_are_shared_again(valkey: ValkeyServer) -> None:
    key, window = f"test-{secrets.token_hex(6)}", Window("inputs", 3, 600)
    async with connected(valkey) as client:
        limiter = Limiter(client)
        await limiter.acquire([(key, window)])
        async with full(client):
            for _ in range(3):
                await limiter.acquire([(key, window)])
            assert away("limits") == 1
            with pytest.raises(LimitExceededError):
                await limiter.acquire([(key, window)])
        async with asyncio.timeout(10):
            while away("limits"):
                await limiter.release(key, "nobody")
                await asyncio.sleep(0.02)
        await limiter.acquire([(key, window)])
        await limiter.acquire([(key, window)])
        with pytest.raises(LimitExceededError):
            await limiter.acquire([(key, window)])


@in_loop
async def test_what_is_read_is_read_from_the_database(valkey: ValkeyServer) -> None:
    key, loads = f"test-{secrets.token_hex(6)}", 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        return b"value"

    async with connected(valkey) as client:
        cache = ReadCache(client)
        async with full(client):
            async with asyncio.timeout(5):
                assert await cache.get(key, 30, load) == b"value"
        assert loads >= 1
