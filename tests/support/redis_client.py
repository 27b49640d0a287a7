"""Tests of what is shared through Redis: an event loop and clients."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from deploy.embedded import HOST
from deploy.servers import ValkeyServer

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a coroutine function."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def connected(valkey: ValkeyServer, **more: Any) -> AsyncIterator[Redis]:
    """A client that gives up soon and does not try again."""
    async with Redis(
        host=HOST, port=valkey.port, socket_timeout=0.5, retry=Retry(NoBackoff(), retries=0), **more
    ) as client:
        yield client
