"""How much a user may use: windows of time, sessions at once, and tokens of a month.

Windows and sessions are counted in Redis (`connectors.limits`). Tokens of the month are those of `spark_usage`, to
which Redis adds what was used since: of the two figures the higher counts, so that neither a table that lags nor a
Redis that lost its memory lets anyone use more.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import structlog
from psycopg.conninfo import make_conninfo
from redis.asyncio import Redis

from connectors.errors import ConfigurationError, SlateError
from connectors.limits import Limiter, Window
from connectors.redis_fallback import Fallback
from connectors.settings import Settings
from connectors.sql import read

CONNECTS: Final = Window("connects", 10, 3600.0)
INPUTS: Final = Window("inputs", 1000, 3600.0)
CALLS: Final = Window("calls", 100, 3600.0)
"""Limits of the wire contract for each user; calls are counted by function."""
LEASE_S: Final = 90.0
"""A session of a process that died takes a place for so long, seconds."""
_LOOK_AGAIN_S: Final = 300.0
_AT_ONCE: Final = 4

_log = structlog.get_logger(__name__)


class QuotaExceededError(SlateError):
    """A user's tokens of this month are used up. `retry_after_s`: until the next month."""

    def __init__(self, used: int, quota: int, retry_after_s: float) -> None:
        hours = retry_after_s / 3600
        super().__init__(f"the {quota} tokens of this month are used up ({used}): come back in {hours:.0f} h")
        self.retry_after_s = retry_after_s


class Quota:
    """The limits of all users."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._limiter = Limiter(redis)
        self._fallback = Fallback("quota")
        self._clock = clock
        self._connecting = asyncio.Semaphore(_AT_ONCE)
        self._looked: dict[tuple[str, str], float] = {}
        self._known: dict[tuple[str, str], int] = {}

    async def connect(self, user_id: str, session_id: str) -> None:
        """Let a session begin.

        Raises:
            LimitExceededError, QuotaExceededError: not now; both say when to come back.
        """
        await self._limiter.acquire([(user_id, CONNECTS)])
        await self.check_tokens(user_id)
        await self.keep(user_id, session_id)

    async def keep(self, user_id: str, session_id: str) -> None:
        """Go on with a session; to be called well within `LEASE_S`."""
        if self._settings.quota_sessions:
            await self._limiter.lease(f"sessions:{user_id}", session_id, self._settings.quota_sessions, LEASE_S)

    async def leave(self, user_id: str, session_id: str) -> None:
        """A session is over."""
        if self._settings.quota_sessions:
            await self._limiter.release(f"sessions:{user_id}", session_id)

    async def input(self, user_id: str) -> None:
        """Take an input.

        Raises:
            LimitExceededError, QuotaExceededError: as `connect`.
        """
        await self.check_tokens(user_id)
        windows = [(user_id, INPUTS)]
        if self._settings.quota_inputs:
            windows.append((f"{user_id} day", Window("inputs", self._settings.quota_inputs, 86_400.0)))
        await self._limiter.acquire(windows)

    async def call(self, user_id: str, function: str) -> None:
        """Take a call of a function.

        Raises:
            LimitExceededError: as `connect`.
        """
        await self._limiter.acquire([(f"{user_id}:{function}", CALLS)])

    # ---- tokens ----------------------------------------------------------------------------------------------

    async def check_tokens(self, user_id: str) -> None:
        """See whether a user has tokens left.

        Raises:
            QuotaExceededError: no.
        """
        quota = self._settings.quota_tokens
        if not quota:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        month = _month(now)
        key = user_id, f"{month:%Y-%m}"
        if now.timestamp() - self._looked.get(key, 0.0) > _LOOK_AGAIN_S:
            await self._look(key, month)
            self._forget_other_months(key[1])
        used = await self._add(key, 0)
        if used >= quota:
            following = _month(month + timedelta(days=32))
            raise QuotaExceededError(used, quota, (following - now).total_seconds())

    async def used(self, user_id: str, tokens: int) -> None:
        """A user has used tokens."""
        if self._settings.quota_tokens:
            month = _month(datetime.fromtimestamp(self._clock(), UTC))
            await self._add((user_id, f"{month:%Y-%m}"), tokens)

    async def _look(self, key: tuple[str, str], month: datetime) -> None:
        """Raise the figure to that of the table."""
        try:
            stored = await self._stored(key[0], month)
        except (psycopg.Error, ConfigurationError) as error:
            _log.warning("a user's tokens cannot be read from PostgreSQL", error=type(error).__name__)
            return
        self._looked[key] = self._clock()
        self._known[key] = max(stored, self._known.get(key, 0))
        redis = self._redis

        async def raise_to() -> None:
            if redis is not None:
                await redis.eval(_RAISE, 1, _redis_key(key), str(stored), str(_KEPT_S))

        await self._fallback.run(raise_to if redis is not None else None, lambda: None)

    async def _stored(self, user_id: str, month: datetime) -> int:
        async with self._connecting:
            connection = await psycopg.AsyncConnection.connect(
                make_conninfo("", **self._settings.dsn(application_name="slate-realtime")), autocommit=True
            )
            async with connection:
                cursor = await connection.execute(
                    read("realtime/month_tokens.sql").encode(), {"user": user_id, "since": month}
                )
                row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _add(self, key: tuple[str, str], tokens: int) -> int:
        self._known[key] = self._known.get(key, 0) + tokens
        redis = self._redis

        async def add() -> int:
            assert redis is not None  # noqa: S101 - else it is not called
            return int(await redis.eval(_ADD, 1, _redis_key(key), str(tokens), str(_KEPT_S)))

        shared = await self._fallback.run(add if redis is not None else None, lambda: 0)
        self._known[key] = max(shared, self._known[key])
        return self._known[key]

    def _forget_other_months(self, month: str) -> None:
        for kept in (self._looked, self._known):
            for key in [one for one in kept if one[1] != month]:
                del kept[key]


_KEPT_S: Final = 40 * 86_400
_RAISE: Final = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) > used then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_ADD: Final = """
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return used
"""


def _redis_key(key: tuple[str, str]) -> str:
    return f"slate:tokens:{key[0]}:{key[1]}"


def _month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
