"""Limits that all processes share: so many in a sliding window, so many holders at a time.

Guarantee: exact. Each decision is one Lua script in Redis by Redis' own clock: no number of processes takes more than a
limit, and none is refused what is free. While Redis is away each process holds to the limits by itself
(`connectors.redis_fallback`): windows then begin anew, leases are remembered.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final

from redis.asyncio import Redis

from connectors.errors import SlateError
from connectors.redis_fallback import Fallback

_PREFIX: Final = "slate:limit:"
_SWEEP_S: Final = 60.0
_PERIODS: Final = {1.0: "a second", 60.0: "a minute", 3600.0: "an hour", 86_400.0: "a day"}

# A list of microseconds for each key, oldest first. Answers which window refuses longest (0: none) and for how long.
_ACQUIRE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local refused, longest = 0, 0
for i, key in ipairs(KEYS) do
    local limit, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local oldest = redis.call('LINDEX', key, 0)
    while oldest and tonumber(oldest) <= now - period do
        redis.call('LPOP', key)
        oldest = redis.call('LINDEX', key, 0)
    end
    local taken = redis.call('LLEN', key)
    if taken >= limit then
        local wait = math.max(1, redis.call('LINDEX', key, taken - limit) + period - now)
        if wait > longest then
            refused, longest = i, wait
        end
    end
end
if refused == 0 then
    for i, key in ipairs(KEYS) do
        redis.call('RPUSH', key, string.format('%.0f', now))
        redis.call('PEXPIRE', key, math.ceil(ARGV[2 * i] / 1000))
    end
end
return {refused, longest}
"""

# A sorted set of holders by the microsecond at which each ends. Answers how long until one does (0: it is given).
_LEASE: Final = """
local holder, limit, period, held = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local holders = redis.call('ZCARD', KEYS[1])
if holders >= limit and not held and not redis.call('ZSCORE', KEYS[1], holder) then
    local ends = redis.call('ZRANGE', KEYS[1], holders - limit, holders - limit, 'WITHSCORES')[2]
    return math.max(1, ends - now)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + period), holder)
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) / 1000))
return 0
"""

_RELEASE: Final = "return redis.call('ZREM', KEYS[1], ARGV[1])"


@dataclass(frozen=True)
class Window:
    """At most `limit` in any `seconds` that follow each other.

    Attributes:
        name: what is counted, in the plural, such as `inputs`; part of the key in Redis.
        limit: at least 1.
        seconds: length of the window.

    Raises:
        ValueError: the name has a colon, or a number is too small.
    """

    name: str
    limit: int
    seconds: float

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise ValueError(f"{self.name!r} is no name of a window: it needs letters and may have no colon")
        _check(self.limit, self.seconds)


class LimitExceededError(SlateError):
    """A limit is reached.

    Attributes:
        name: the window's name, or the key of a lease.
        limit: how many are allowed.
        retry_after_s: seconds after which there is room again, if nobody else takes it.
    """

    def __init__(self, name: str, limit: int, what: str, retry_after_s: float) -> None:
        super().__init__(f"limit of {what} reached: come back in {math.ceil(retry_after_s)} s")
        self.name = name
        self.limit = limit
        self.retry_after_s = retry_after_s


class Limiter:
    """Grants what is within the limits. For one event loop.

    Args:
        client: Redis, with time-outs well below a second, without retries, and with a pool that waits for a free
            connection (`BlockingConnectionPool`: the usual one fails at 100, which looks like a Redis that is away);
            None holds to the limits in this process only.
        clock: seconds, monotonic, for the time in which Redis is away.
    """

    def __init__(self, client: Redis | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._acquire, self._lease, self._release = (
            client.register_script(text) if client is not None else None for text in (_ACQUIRE, _LEASE, _RELEASE)
        )
        self._local = _Local(clock)
        self._fallback = Fallback("limits", clock)

    async def acquire(self, windows: Sequence[tuple[str, Window]]) -> None:
        """Take one from each window, or none from any.

        Args:
            windows: each with the key of who is limited, such as a user's id.

        Raises:
            LimitExceededError: a window is full; of several, the one that is full for the longest time.
            ValueError: the same window is named twice.
        """
        keys = [f"{_PREFIX}window:{window.name}:{key}" for key, window in windows]
        if len(set(keys)) < len(keys):
            raise ValueError("the same window of the same key is named twice")
        figures = [(window.limit, _us(window.seconds)) for _, window in windows]
        refused, wait_us = await self._fallback.run(
            self._acquire and partial(self._acquire, keys, list(chain(*figures))),
            lambda: self._local.acquire(keys, figures),
        )
        if refused:
            window = windows[refused - 1][1]
            per = _PERIODS.get(window.seconds, f"in {window.seconds:g} s")
            raise LimitExceededError(window.name, window.limit, f"{window.limit} {window.name} {per}", wait_us / 1e6)

    async def lease(self, key: str, holder: str, limit: int, seconds: float) -> None:
        """Become or stay one of at most `limit` holders, for `seconds` from now.

        Whoever holds a lease can prolong it, even when Redis has come or gone since; only in that case may there be
        more holders than `limit`, until their leases end.

        Raises:
            LimitExceededError: there are as many holders already.
            ValueError: a number is too small.
        """
        _check(limit, seconds)
        name, period = f"{_PREFIX}lease:{key}", _us(seconds)
        began = self._local.now()
        held = self._local.holds(name, holder)
        wait_us = await self._fallback.run(
            self._lease and partial(self._lease, [name], [holder, limit, period, int(held)]),
            lambda: self._local.lease(name, holder, limit, period),
        )
        if wait_us:
            raise LimitExceededError(key, limit, f"{limit} at a time for {key}", wait_us / 1e6)
        self._local.hold(name, holder, began + period)

    async def release(self, key: str, holder: str) -> None:
        """End a lease. While Redis is away, the lease there ends by its own time."""
        name = f"{_PREFIX}lease:{key}"
        self._local.release(name, holder)
        await self._fallback.run(self._release and partial(self._release, [name], [holder]), lambda: None)


class _Local:
    """What the scripts do, in this process. Times are microseconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken: dict[str, deque[int]] = {}
        self._ends: dict[str, int] = {}
        """When the last entry of a window leaves it."""
        self._leases: dict[str, dict[str, int]] = {}
        self._next_sweep = self.now() + _us(_SWEEP_S)

    def now(self) -> int:
        """The clock."""
        return _us(self._clock())

    def acquire(self, keys: Sequence[str], figures: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """As the script."""
        now = self._swept()
        refused, longest = 0, 0
        for i, (key, (limit, period)) in enumerate(zip(keys, figures, strict=True), 1):
            taken = self._taken.get(key) or deque()
            while taken and taken[0] <= now - period:
                taken.popleft()
            if len(taken) >= limit:
                wait = max(1, taken[len(taken) - limit] + period - now)
                if wait > longest:
                    refused, longest = i, wait
        if not refused:
            for key, (_, period) in zip(keys, figures, strict=True):
                self._taken.setdefault(key, deque()).append(now)
                self._ends[key] = now + period
        return refused, longest

    def lease(self, key: str, holder: str, limit: int, period: int) -> int:
        """As the script."""
        now = self._swept()
        ends = self._live(key, now)
        if len(ends) >= limit and holder not in ends:
            return max(1, sorted(ends.values())[len(ends) - limit] - now)
        self.hold(key, holder, now + period)
        return 0

    def holds(self, key: str, holder: str) -> bool:
        """Whether a lease that this process was given has not ended."""
        return holder in self._live(key, self.now())

    def hold(self, key: str, holder: str, end: int) -> None:
        """Remember a lease."""
        self._swept()
        self._leases.setdefault(key, {})[holder] = end

    def release(self, key: str, holder: str) -> None:
        """Forget a lease."""
        holders = self._leases.get(key, {})
        holders.pop(holder, None)
        if not holders:
            self._leases.pop(key, None)

    def _live(self, key: str, now: int) -> dict[str, int]:
        return {holder: end for holder, end in self._leases.get(key, {}).items() if end > now}

    def _swept(self) -> int:
        """The time; now and then, after what has ended is let go."""
        now = self.now()
        if now >= self._next_sweep:
            self._next_sweep = now + _us(_SWEEP_S)
            for key in [key for key, end in self._ends.items() if end <= now]:
                del self._taken[key], self._ends[key]
            self._leases = {key: live for key in self._leases if (live := self._live(key, now))}
        return now


def _check(limit: int, seconds: float) -> None:
    if limit < 1 or seconds < 0.001:
        raise ValueError(f"a limit of {limit} in {seconds} s: it must be at least 1 in at least a millisecond")


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
