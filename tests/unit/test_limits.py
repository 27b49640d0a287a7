"""Without Redis a process counts for itself, exactly, and forgets what is over."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from connectors.limits import Limiter, LimitExceededError, Window
from tests.support.redis_client import in_loop


@given(limit=st.integers(1, 4), period_us=st.integers(1000, 5000), pauses=st.lists(st.integers(0, 3000), max_size=40))
def test_a_process_counts_as_one_would_by_hand(limit: int, period_us: int, pauses: list[int]) -> None:
    now_us = 0
    limiter = Limiter(None, lambda: now_us / 1e6)
    window = Window("inputs", limit, period_us / 1e6)
    taken: list[int] = []
    refusals: list[tuple[int, int]] = []

    async def run() -> None:
        nonlocal now_us
        for pause in pauses:
            now_us += pause
            inside = [one for one in taken if one > now_us - period_us]
            try:
                await limiter.acquire([("a", window)])
            except LimitExceededError as error:
                refusals.append((len(inside), round(error.retry_after_s * 1e6) - (inside[0] + period_us - now_us)))
            else:
                assert len(inside) < limit
                taken.append(now_us)

    asyncio.run(run())
    assert set(refusals) <= {(limit, 0)}


@in_loop
async def test_a_process_forgets_what_is_over() -> None:
    now = 0.0
    limiter = Limiter(None, lambda: now)
    for number in range(100):
        await limiter.acquire([(str(number), Window("inputs", 5, 30 if number else 600))])
        await limiter.lease(str(number), "one", 5, 30 if number else 600)
    now = 61.0
    await limiter.acquire([("user", Window("inputs", 5, 30))])
    local = limiter._local
    assert (len(local._taken), len(local._ends), len(local._leases)) == (2, 2, 1)


@pytest.mark.parametrize(
    ("name", "limit", "seconds"), [("a:b", 1, 1), ("", 1, 1), ("a", 0, 1), ("a", 1, 0), ("a", -1, 1), ("a", 1, -1)]
)
def test_a_window_that_cannot_be_is_refused(name: str, limit: int, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"must be at least|no name of a window"):
        Window(name, limit, seconds)


@in_loop
async def test_the_same_window_twice_is_a_mistake_and_none_is_fine() -> None:
    limiter = Limiter(None)
    await limiter.acquire([])
    window = ("user", Window("inputs", 5, 60))
    with pytest.raises(ValueError, match="twice"):
        await limiter.acquire([window, window])
    with pytest.raises(ValueError, match="at least"):
        await limiter.lease("user", "one", 0, 60)


@in_loop
async def test_without_redis_it_says_so_once() -> None:
    with capture_logs() as logs:
        limiter = Limiter(None)
        for _ in range(3):
            await limiter.acquire([("user", Window("inputs", 5, 60))])
            await limiter.lease("user", "one", 1, 60)
            await limiter.release("user", "one")
    assert [one["log_level"] for one in logs] == ["warning"]
    assert REGISTRY.get_sample_value("spark_redis_away", {"part": "limits"}) == 1
