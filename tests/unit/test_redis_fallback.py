"""Redis is asked while it answers, and now and then while it does not."""

import asyncio
from functools import partial

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from structlog.testing import capture_logs

from connectors.redis_fallback import Fallback
from tests.support.redis_client import in_loop


def is_away(part: str) -> bool:
    return REGISTRY.get_sample_value("spark_redis_away", {"part": part}) == 1


class Remote:
    """Redis as the fallback sees it: counts what it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = False

    async def __call__(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.up:
            raise RedisConnectionError("connection refused")
        return "remote"


def local() -> str:
    return "local"


@in_loop
async def test_redis_is_asked_once_a_second_while_it_is_away() -> None:
    now = 50.0
    remote = Remote()
    fallback = Fallback("asked", lambda: now)
    with capture_logs() as logs:
        for asked in range(1, 6):
            answers = await asyncio.gather(*(fallback.run(remote, local) for _ in range(20)))
            assert set(answers) == {"local"}
            assert remote.asked == (20 if asked == 1 else 19 + asked)
            now += 1.0
        remote.up = True
        assert await fallback.run(remote, local) == "remote"
        assert await fallback.run(remote, local) == "remote"
    assert [one["log_level"] for one in logs] == ["warning", "info"]


@in_loop
async def test_what_was_asked_before_redis_went_or_came_says_nothing_about_now() -> None:
    now = 50.0
    fallback = Fallback("late", lambda: now)
    early: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    later: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    remote = Remote()
    first, second = [
        asyncio.create_task(fallback.run(partial(asyncio.wait_for, one, 10), local)) for one in (early, later)
    ]
    await asyncio.sleep(0)
    await fallback.run(remote, local)
    assert is_away("late")
    early.set_result("remote")
    assert await first == "remote"
    assert is_away("late")
    remote.up = True
    now += 1
    await fallback.run(remote, local)
    assert not is_away("late")
    later.set_exception(RedisConnectionError("reset"))
    assert await second == "local"
    assert not is_away("late")


@in_loop
async def test_a_redis_that_is_slow_to_fail_is_not_asked_again_at_once() -> None:
    now = 50.0
    asked = 0

    async def slow() -> str:
        nonlocal now, asked
        asked += 1
        now += 5
        raise RedisTimeoutError("timeout reading")

    fallback = Fallback("slow", lambda: now)
    for _ in range(3):
        assert await fallback.run(slow, local) == "local"
    assert asked == 1


@in_loop
async def test_other_failures_are_not_those_of_redis() -> None:
    async def wrong() -> str:
        raise ValueError("a fault of the program")

    with pytest.raises(ValueError, match="fault"):
        await Fallback("wrong").run(wrong, local)
    assert not is_away("wrong")
