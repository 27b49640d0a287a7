"""One of several processes that want the same value at once.

Run as `python -m tests.support.read_worker PORT KEY LOCK_S LOAD_S`; says `ready`, begins at the next line of its input,
says `loading` when it is the one that reads, and prints what twenty of its tasks got.
"""

import asyncio
import json
import sys

from redis.asyncio import Redis

from connectors import read_cache
from connectors.read_cache import ReadCache
from deploy.embedded import HOST


async def main(port: int, key: str, load_s: float) -> None:
    """Read with twenty tasks; each load is counted in Redis."""
    async with Redis(host=HOST, port=port, socket_timeout=1) as client:
        cache = ReadCache(client)

        async def load() -> bytes:
            number = await client.incr(f"loads:{key}")
            print("loading", flush=True)  # noqa: T201
            await asyncio.sleep(load_s)
            return b"%d" % number

        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)
        values = await asyncio.gather(*(cache.get(key, 30, load) for _ in range(20)))
    print(json.dumps([value.decode() for value in values]), flush=True)  # noqa: T201


if __name__ == "__main__":
    read_cache.LOCK_S = float(sys.argv[3])  # type: ignore[misc]
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[4])))
