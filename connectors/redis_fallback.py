"""What is shared through Redis goes on without it, each process on its own, and comes back by itself.

Guarantee: a call never fails because of Redis. While Redis is away the processes do not know of each other; that shows
in the log, once when it begins and once when it ends, and in `spark_redis_away`.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from prometheus_client import Gauge
from redis.exceptions import RedisError

ASK_AGAIN_S: Final = 1.0
"""How often Redis is asked again while it is away, at most."""
AWAY: Final = Gauge("spark_redis_away", "Whether a part of this process does without Redis", ["part"])

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Fallback:
    """Asks Redis, and answers from this process while Redis is away.

    Away means that it cannot be reached, is too slow or refuses (out of memory, a replica, a full disk). How long a
    call may take to find that out is up to the client: give it a short `socket_timeout` and few retries.

    Args:
        part: what is shared, for the log and the metric.
        clock: seconds, monotonic.
    """

    def __init__(self, part: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._part = part
        self._clock = clock
        self._away = False
        self._turns = 0
        self._ask_again = 0.0
        AWAY.labels(part=part).set(0)

    async def run(self, remote: Callable[[], Awaitable[T]] | None, local: Callable[[], T]) -> T:
        """The answer of `remote`, or that of `local` while Redis is away.

        Args:
            remote: asks Redis; None where there is no Redis at all.
            local: answers from this process.
        """
        if remote is None:
            self._turn(True, "none is set (REDIS_HOST)")
            return local()
        if self._away and self._clock() < self._ask_again:
            return local()
        turns = self._turns  # what was asked before Redis went or came says nothing of the time after it
        self._ask_again = self._clock() + ASK_AGAIN_S
        try:
            answer = await remote()
        except RedisError as error:
            if turns == self._turns:
                self._ask_again = self._clock() + ASK_AGAIN_S
                self._turn(True, f"{type(error).__name__}: {error}")
            return local()
        if turns == self._turns:
            self._turn(False)
        return answer

    def _turn(self, away: bool, why: str = "") -> None:
        if away == self._away:
            return
        self._away = away
        self._turns += 1
        AWAY.labels(part=self._part).set(away)
        if away:
            _log.warning("Redis is away: this process goes on by itself", part=self._part, why=why)
        else:
            _log.info("Redis is back", part=self._part)
