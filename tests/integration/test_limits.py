"""Limits are exact over all processes, let people in again when they said, and hold when Redis is away."""

import asyncio
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from connectors.limits import Limiter, LimitExceededError, Window
from deploy.embedded import HOST
from deploy.servers import ValkeyServer
from tests.support.limit_worker import ATTEMPTS, HOLDERS, LIMIT
from tests.support.redis_client import connected, in_loop

PROCESSES = 50
ROOT = Path(__file__).parents[2]
Call = Callable[[], Coroutine[Any, Any, None]]
either = pytest.mark.parametrize("shared", [True, False], ids=["redis", "process"])


@pytest.fixture
def key() -> str:
    return f"test-{secrets.token_hex(6)}"


@asynccontextmanager
async def limiter_of(valkey: ValkeyServer, shared: bool) -> AsyncIterator[Limiter]:
    if not shared:
        yield Limiter(None)
        return
    async with connected(valkey) as client:
        yield Limiter(client)
        assert not away()


def away() -> float:
    return REGISTRY.get_sample_value("spark_redis_away", {"part": "limits"}) or 0.0


async def refusal(call: Coroutine[Any, Any, None]) -> LimitExceededError:
    with pytest.raises(LimitExceededError) as caught:
        await call
    return caught.value


async def granted(call: Call, within_s: float = 10.0) -> int:
    """Ask until it is granted; returns how often it was refused."""
    deadline = monotonic() + within_s
    refused = 0
    while True:
        try:
            await call()
        except LimitExceededError as error:
            assert monotonic() < deadline, "never granted"
            refused += 1
            await asyncio.sleep(min(error.retry_after_s, 0.005))
        else:
            return refused


def test_fifty_processes_together_get_exactly_the_limit(valkey: ValkeyServer, key: str) -> None:
    command = [sys.executable, "-m", "tests.support.limit_worker", str(valkey.port), key]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, f"holder-{number}"], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for number in range(PROCESSES)
        ]
        for worker in workers:
            stack.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        told = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    assert PROCESSES * ATTEMPTS > 2 * LIMIT
    assert sum(one["granted"] for one in told) == LIMIT
    assert sum(one["leased"] for one in told) == HOLDERS
    assert {one["away"] for one in told} == {0.0}


@either
@in_loop
async def test_a_refusal_says_which_limit_and_until_when(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        for window, words in (
            (Window("inputs", 2, 3600), "limit of 2 inputs an hour reached: come back in 3600 s"),
            (Window("calls", 2, 90), "limit of 2 calls in 90 s reached: come back in 90 s"),
        ):
            for _ in range(2):
                await limiter.acquire([(key, window)])
            error = await refusal(limiter.acquire([(key, window)]))
            assert str(error) == words
            assert (error.name, error.limit) == (window.name, 2)
            assert window.seconds - 5 < error.retry_after_s <= window.seconds
            await limiter.acquire([("another" + key, window)])


@either
@in_loop
async def test_no_period_anywhere_has_more_than_the_limit(valkey: ValkeyServer, key: str, shared: bool) -> None:
    window, begun, done, waits = Window("inputs", 4, 0.3), [], [], []
    end = monotonic() + 1.5
    async with limiter_of(valkey, shared) as limiter:
        while monotonic() < end:
            before = monotonic()
            try:
                await limiter.acquire([(key, window)])
            except LimitExceededError as error:
                waits.append(error.retry_after_s)
                await asyncio.sleep(0.001)
            else:
                begun.append(before)
                done.append(monotonic())
    assert len(begun) >= 2 * window.limit
    assert all(0 < wait <= window.seconds for wait in waits)
    for first, later in zip(begun, done[window.limit :], strict=False):
        assert later - first >= window.seconds - 0.001


@either
@in_loop
async def test_one_leaves_the_window_at_a_time(valkey: ValkeyServer, key: str, shared: bool) -> None:
    window = Window("inputs", 2, 2.0)
    async with limiter_of(valkey, shared) as limiter:
        await limiter.acquire([(key, window)])
        await take_at_half_time(limiter, key, window)
        error = await refusal(limiter.acquire([(key, window)]))
        assert error.retry_after_s <= 1.0
        await asyncio.sleep(error.retry_after_s)  # what a caller does
        await limiter.acquire([(key, window)])
        assert (await refusal(limiter.acquire([(key, window)]))).retry_after_s <= 1.5


async def take_at_half_time(limiter: Limiter, key: str, window: Window) -> None:
    half = Window("halves", 1, window.seconds / 2)
    await limiter.acquire([(key, half)])
    await granted(lambda: limiter.acquire([(key, half)]))
    await limiter.acquire([(key, window)])


@either
@in_loop
async def test_who_comes_back_when_told_is_let_in(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        window = Window("inputs", 1, 0.15)
        await limiter.acquire([(key, window)])
        await limiter.lease(key, "one", 1, 0.15)
        calls: list[Call] = [lambda: limiter.acquire([(key, window)]), lambda: limiter.lease(key, "two", 1, 0.15)]
        for call in calls:
            for _ in range(3):
                try:
                    await call()
                except LimitExceededError as error:
                    await asyncio.sleep(error.retry_after_s)  # what a caller does
                    await call()


@either
@in_loop
async def test_of_several_windows_all_or_none_is_taken(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        small, large, other = (
            (key, Window("calls", 1, 60)),
            (key, Window("inputs", 3, 600)),
            ("o" + key, Window("x", 9, 9)),
        )
        await limiter.acquire([large, small])
        for windows in ([large, small], [small, large], [other, small, large]):
            assert (await refusal(limiter.acquire(windows))).name == "calls"
        await limiter.acquire([large])
        await limiter.acquire([large])
        for windows in ([large, small], [small, large]):
            error = await refusal(limiter.acquire(windows))
            assert error.name == "inputs"
            assert error.retry_after_s > 500
        for _ in range(9):
            await limiter.acquire([other])
        await refusal(limiter.acquire([other]))


@either
@in_loop
async def test_another_limit_for_the_same_window_counts_what_was_taken(
    valkey: ValkeyServer, key: str, shared: bool
) -> None:
    async with limiter_of(valkey, shared) as limiter:
        await limiter.acquire([(key, Window("inputs", 2, 600))])
        await take_at_half_time(limiter, key, Window("inputs", 2, 1.5))
        assert (await refusal(limiter.acquire([(key, Window("inputs", 1, 600))]))).retry_after_s > 599.5
        await limiter.acquire([(key, Window("inputs", 3, 600))])


@in_loop
async def test_redis_keeps_no_more_than_the_limit_and_not_for_longer(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client:
        limiter = Limiter(client)
        for _ in range(30):
            try:
                await limiter.acquire([(key, Window("inputs", 5, 0.5)), (key, Window("calls", 9, 0.6))])
                await limiter.lease(key, "one", 5, 0.5)
            except LimitExceededError:
                continue
        names = {name.decode() async for name in client.scan_iter(f"*{key}*")}
        assert names == {f"slate:limit:{kind}:{key}" for kind in ("window:inputs", "window:calls", "lease")}
        taken = await client.lrange(f"slate:limit:window:inputs:{key}", 0, -1)
        assert [len(microseconds) for microseconds in taken] == [16] * 5
        for name in names:
            assert 0 < await client.pttl(name) <= 600
        async with asyncio.timeout(5):
            while [name async for name in client.scan_iter(f"*{key}*")]:  # noqa: ASYNC110 - Redis says nothing
                await asyncio.sleep(0.02)


@either
@in_loop
async def test_so_many_hold_a_lease_until_one_gives_it_back(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        await limiter.lease(key, "one", 2, 60)
        await limiter.lease(key, "two", 2, 90)
        error = await refusal(limiter.lease(key, "three", 2, 60))
        assert str(error) == f"limit of 2 at a time for {key} reached: come back in 60 s"
        assert (error.name, error.limit) == (key, 2)
        await limiter.lease(key, "one", 2, 80)
        await limiter.lease(key, "one", 1, 80)
        assert 79 < (await refusal(limiter.lease(key, "three", 2, 60))).retry_after_s <= 80
        assert 89 < (await refusal(limiter.lease(key, "three", 1, 60))).retry_after_s <= 90
        await limiter.release(key, "nobody")
        await refusal(limiter.lease(key, "three", 2, 60))
        await limiter.release(key, "two")
        await limiter.lease(key, "three", 2, 60)
        await refusal(limiter.lease(key, "two", 2, 60))
        await limiter.lease("other" + key, "two", 2, 60)


@either
@in_loop
async def test_a_lease_ends_by_itself_unless_it_is_prolonged(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        await limiter.lease(key, "gone", 2, 0.5)
        begin = monotonic()
        new = False
        while monotonic() < begin + 1.5:
            await limiter.lease(key, "here", 2, 0.5)
            try:
                await limiter.lease(key, "new", 2, 60)
                new = True
            except LimitExceededError:
                await asyncio.sleep(0.01)
            if new:
                assert (await refusal(limiter.lease(key, "gone", 2, 0.5))).retry_after_s <= 0.5
                await asyncio.sleep(0.01)
        assert new


@either
@in_loop
async def test_a_short_lease_does_not_end_a_long_one(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with limiter_of(valkey, shared) as limiter:
        await limiter.lease(key, "long", 2, 60)
        await limiter.lease(key, "short", 2, 0.2)
        assert await granted(lambda: limiter.lease(key, "new", 2, 60)) > 0
        await refusal(limiter.lease(key, "third", 2, 60))


@in_loop
async def test_a_lease_is_prolonged_and_given_back_by_another_process(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client, connected(valkey, decode_responses=True) as another:
        one, two = Limiter(client), Limiter(another)
        await one.lease(key, "a", 1, 60)
        await refusal(two.lease(key, "b", 1, 60))
        await two.lease(key, "a", 1, 60)
        await two.release(key, "a")
        await two.lease(key, "b", 1, 60)


@in_loop
async def test_while_redis_is_gone_the_process_keeps_to_the_limits(valkey: ValkeyServer, key: str) -> None:
    window = Window("inputs", 3, 600)
    with capture_logs() as logs:
        async with connected(valkey) as client, connected(valkey) as another:
            limiter, elsewhere = Limiter(client), Limiter(another)
            await limiter.acquire([(key, window)])
            await limiter.lease(key, "one", 1, 600)
            valkey.kill()
            try:
                for _ in range(3):
                    await limiter.acquire([(key, window)])
                assert away() == 1
                await refusal(limiter.acquire([(key, window)]))
                await refusal(limiter.lease(key, "two", 1, 600))
                await limiter.lease(key, "one", 1, 600)
                await limiter.lease("only-here" + key, "one", 1, 600)
            finally:
                valkey.start()
            async with asyncio.timeout(10):
                while away():
                    await limiter.release(key, "nobody")
                    await asyncio.sleep(0.02)
            await limiter.acquire([(key, window)])
            await limiter.acquire([(key, window)])
            await refusal(limiter.acquire([(key, window)]))
            await refusal(elsewhere.lease(key, "two", 1, 600))
            await elsewhere.lease("only-here" + key, "two", 1, 600)
            await limiter.lease("only-here" + key, "one", 1, 600)
            await refusal(elsewhere.lease("only-here" + key, "three", 1, 600))
            await limiter.release(key, "one")
            await elsewhere.lease(key, "two", 1, 600)
    assert [one["log_level"] for one in logs if one.get("part") == "limits"] == ["warning", "info"]


@in_loop
async def test_who_holds_a_lease_keeps_it_when_redis_has_lost_it(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client, connected(valkey) as another:
        limiter, elsewhere = Limiter(client), Limiter(another)
        await limiter.lease(key, "one", 1, 600)
        await client.delete(f"slate:limit:lease:{key}")
        await elsewhere.lease(key, "two", 1, 600)
        await limiter.lease(key, "one", 1, 600)
        await elsewhere.lease(key, "two", 1, 600)
        await refusal(elsewhere.lease(key, "three", 1, 600))
        await limiter.release(key, "one")
        await refusal(limiter.lease(key, "one", 1, 600))


@in_loop
async def test_a_redis_that_hangs_holds_up_one_call_a_second(key: str) -> None:
    now = 100.0
    with socket.create_server((HOST, 0), backlog=64) as silent:
        silent.setblocking(False)
        async with Redis(
            host=HOST, port=silent.getsockname()[1], socket_timeout=0.2, retry=Retry(NoBackoff(), retries=0)
        ) as client:
            limiter = Limiter(client, lambda: now)
            for asked in (1, 2, 3):
                begin = monotonic()
                await limiter.acquire([(key, Window("inputs", 1000, 600))])
                calls = [limiter.acquire([(key, Window("inputs", 1000, 600))]) for _ in range(200)]
                await asyncio.gather(*calls, *(limiter.lease(key, "one", 1, 60) for _ in range(50)))
                assert monotonic() - begin < 2
                assert accepted(silent) == 1, asked
                now += 1.0
    assert away() == 1


def accepted(server: socket.socket) -> int:
    """How many connections were made since this was asked last."""
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


WINDOWS = [(who, Window(name, limit, 600)) for who in "ab" for name, limit in (("x", 1), ("y", 3), ("z", 5))]
TAKE = st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=4, unique=True)
LEASE = st.tuples(
    st.sampled_from(["lease", "release"]), st.sampled_from("ab"), st.sampled_from("123"), st.integers(1, 2)
)


@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(TAKE, LEASE), max_size=30))
def test_redis_and_the_process_decide_alike(valkey: ValkeyServer, steps: list[Any]) -> None:
    async def run() -> None:
        run_key = secrets.token_hex(6)
        async with connected(valkey) as client:
            shared, local = Limiter(client), Limiter(None)
            for step in steps:
                assert await answer(shared, step, run_key) == await answer(local, step, run_key)

    asyncio.run(run())


async def answer(limiter: Limiter, step: Any, run_key: str) -> tuple[str, int] | None:
    try:
        if isinstance(step, list):
            await limiter.acquire([(run_key + who, window) for who, window in step])
        elif step[0] == "lease":
            await limiter.lease(run_key + step[1], step[2], step[3], 600)
        else:
            await limiter.release(run_key + step[1], step[2])
    except LimitExceededError as error:
        return error.name, error.limit
    return None
