"""One of many processes that want the same: takes what it can get, and says how much that was.

Run as `python -m tests.support.limit_worker PORT KEY HOLDER`; says `ready`, begins at the next line of its input, and
prints a JSON object.
"""

import asyncio
import json
import sys

from prometheus_client import REGISTRY
from redis.asyncio import Redis

from connectors.limits import Limiter, LimitExceededError, Window
from deploy.embedded import HOST

LIMIT = 500
HOLDERS = 20
ATTEMPTS = 25
"""Of each process in each window and for a lease."""


async def main(port: int, key: str, holder: str) -> None:
    """Take from a window of its own kind and from one that is twice as wide, and a lease."""
    granted = leased = 0
    async with Redis(host=HOST, port=port) as client:
        await client.ping()
        limiter = Limiter(client)
        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)
        windows = [(key, Window("inputs", LIMIT, 3600)), (key, Window("calls", 2 * LIMIT, 86_400))]

        async def take() -> None:
            nonlocal granted
            try:
                await limiter.acquire(windows)
                granted += 1
            except LimitExceededError:
                pass

        async def lease() -> None:
            nonlocal leased
            try:
                await limiter.lease(key, holder, HOLDERS, 3600)
                leased = 1
            except LimitExceededError:
                pass

        for _ in range(ATTEMPTS):
            await asyncio.gather(take(), lease())
    away = REGISTRY.get_sample_value("spark_redis_away", {"part": "limits"})
    print(json.dumps({"granted": granted, "leased": leased, "away": away}), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
