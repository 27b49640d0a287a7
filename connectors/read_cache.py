"""What was read, for a short time, in Redis: all processes share it, and of all that want it at once one reads it.

Guarantee: a value is at most `ttl_s` + `NEAR_S` old when it is given, and `STALE_S` more while somebody is reading it
anew. For `NEAR_S` a process gives what it was given itself, so that what many want costs Redis a question now and then.
An error is not kept: it goes to all in this process that wait for the value, and the next ask again. A reader that dies
keeps the others waiting for `LOCK_S` at most. While Redis is away each process keeps values for itself, within a bound.
"""

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from prometheus_client import Counter
from redis.asyncio import Redis

from connectors.redis_fallback import Fallback

LOCK_S: Final = 10.0
"""After so long somebody else may read what one process has begun to read. Longer than any read takes."""
STALE_S: Final = 5.0
"""For so long after its time a value is given to those who would have to wait."""
NEAR_S: Final = 0.25
"""For so long a process does not ask again."""
LOCAL_BYTES: Final = 16 << 20
"""How much a process keeps for itself, near and while Redis is away, each."""
READS: Final = Counter(
    "spark_read_cache", "Reads by what the cache did: hit, stale (another reads it anew), or miss", ["result"]
)

_POLL_S: Final = 0.02
_PREFIX: Final = "slate:read:"

# KEYS: value, lock. ARGV: stale ms, token, lock ms. Answers the value and 0 fresh, 1 ours to read, 2 another's.
_GET = """
local value, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
if value and left > tonumber(ARGV[1]) then return {value, 0} end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {value, 1} end
return {value, 2}
"""
# KEYS: value, lock. ARGV: token, value, its ms. Whoever has lost the lock has an old value.
_PUT = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_FRESH, _OURS, _ANOTHERS = range(3)

Load = Callable[[], Awaitable[bytes]]


class _Found(NamedTuple):
    value: bytes | None
    state: int


class _Flight:
    """One reading of a value in this process; `stale` is what may be given meanwhile."""

    def __init__(self) -> None:
        self.stale: bytes | None = None
        self.task: asyncio.Task[tuple[bytes, str]]


class _Memory:
    """Values of this process, as long as Redis would keep them; the oldest go first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> bytes | None:
        until, value = self._values.get(key, (0.0, b""))
        return value if self._clock() < until else None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        _, old = self._values.pop(key, (0.0, None))
        self._bytes -= 0 if old is None else len(key) + len(old)
        self._values[key] = self._clock() + ttl_s, value
        self._bytes += len(key) + len(value)
        while self._bytes > LOCAL_BYTES:
            name, (_, gone) = self._values.popitem(last=False)
            self._bytes -= len(name) + len(gone)


class ReadCache:
    """Keeps bytes by key.

    Args:
        client: Redis, for all processes, with a short `socket_timeout` and without `decode_responses`. None: this
            process is alone.
        clock: seconds, monotonic, for the time without Redis.
    """

    def __init__(self, client: Redis | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._memory = _Memory(clock)
        self._near = _Memory(clock)
        self._fallback = Fallback("read_cache", clock)
        self._flights: dict[str, _Flight] = {}
        if client is not None:
            self._get, self._put, self._release = map(client.register_script, (_GET, _PUT, _RELEASE))

    async def get(self, key: str, ttl_s: float, load: Load) -> bytes:
        """The value, from the cache or from `load`; raises what `load` raises.

        Args:
            key: must name whose it is and all that it depends on.
            ttl_s: how old a value may be, seconds.
            load: reads it; it goes on when whoever asked is cancelled, for others may wait for it.
        """
        near = self._near.get(key)
        if near is not None:
            READS.labels(result="hit").inc()
            return near
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(flight, key, ttl_s, load))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        elif flight.stale is not None:
            READS.labels(result="stale").inc()
            return flight.stale
        value, result = await asyncio.shield(flight.task)
        READS.labels(result=result).inc()
        if result != "stale":
            self._near.put(key, value, min(NEAR_S, ttl_s))
        return value

    def _landed(self, key: str, task: "asyncio.Task[tuple[bytes, str]]") -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _fly(self, flight: _Flight, key: str, ttl_s: float, load: Load) -> tuple[bytes, str]:
        token = secrets.token_hex(8)
        deadline = time.monotonic() + 2 * LOCK_S  # the second may die, too
        while True:
            found = await self._look(key, token)
            if found is None:
                return await self._alone(key, ttl_s, load)
            if found.state == _FRESH and found.value is not None:
                return found.value, "hit"
            if found.state == _OURS:
                flight.stale = found.value
                return await self._read(key, token, ttl_s, load), "miss"
            if found.value is not None:
                return found.value, "stale"
            if time.monotonic() > deadline:
                return await load(), "miss"
            await asyncio.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def _look(self, key: str, token: str) -> _Found | None:
        """What Redis has; None while it is away."""

        async def ask() -> _Found:
            arguments: list[str | int] = [_ms(STALE_S), token, _ms(LOCK_S)]
            return _Found(*await self._get(keys=_keys(key), args=arguments))

        return await self._fallback.run(None if self._client is None else ask, lambda: None)

    async def _read(self, key: str, token: str, ttl_s: float, load: Load) -> bytes:
        """Read it as the only one, and let go of the lock whatever happens."""
        try:
            value = await load()
        except BaseException:
            await self._fallback.run(lambda: self._release(keys=_keys(key)[1:], args=[token]), lambda: None)
            raise
        arguments: list[str | bytes | int] = [token, value, _ms(ttl_s + STALE_S)]
        await self._fallback.run(
            lambda: self._put(keys=_keys(key), args=arguments), lambda: self._memory.put(key, value, ttl_s)
        )
        return value

    async def _alone(self, key: str, ttl_s: float, load: Load) -> tuple[bytes, str]:
        if (value := self._memory.get(key)) is not None:
            return value, "hit"
        value = await load()
        self._memory.put(key, value, ttl_s)
        return value, "miss"


def _keys(key: str) -> list[str]:
    return [_PREFIX + key, f"{_PREFIX}{key}:lock"]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
