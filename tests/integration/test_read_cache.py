"""Of all that want a value at once one reads it, over processes, and whatever becomes of it or of Redis."""

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from connectors import read_cache
from connectors.read_cache import LOCAL_BYTES, NEAR_S, ReadCache
from deploy.servers import ValkeyServer
from tests.support.redis_client import connected, in_loop
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def key() -> str:
    return f"test-{secrets.token_hex(6)}"


class Source:
    """What is read: counts how often, and answers when it is let."""

    def __init__(self, *, open_: bool = True) -> None:
        self.loads = 0
        self.value = b"first"
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    async def __call__(self) -> bytes:
        self.loads += 1
        value = self.value
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return value


def results() -> dict[str, float]:
    return {
        result: REGISTRY.get_sample_value("spark_read_cache_total", {"result": result}) or 0.0
        for result in ("hit", "miss", "stale")
    }


def away() -> float:
    return REGISTRY.get_sample_value("spark_redis_away", {"part": "read_cache"}) or 0.0


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "process"])
@in_loop
async def test_fifty_that_want_it_at_once_have_it_read_once(valkey: ValkeyServer, key: str, shared: bool) -> None:
    async with connected(valkey) as client:
        cache = ReadCache(client if shared else None)
        source = Source(open_=False)
        before = results()
        wanted = [asyncio.create_task(cache.get(key, 30, source)) for _ in range(50)]
        await until(lambda: source.loads)
        await asyncio.sleep(0.1)
        source.gate.set()
        assert set(await asyncio.gather(*wanted)) == {b"first"}
        assert await cache.get(key, 30, source) == b"first"
        assert source.loads == 1
        after = results()
        assert {one: after[one] - before[one] for one in after} == {"hit": 1, "miss": 50, "stale": 0}


@contextmanager
def workers(
    valkey: ValkeyServer, key: str, count: int, lock_s: float, load_s: float
) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tests.support.read_worker", str(valkey.port), key, str(lock_s), str(load_s)]
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(count)
        ]
        for worker in found:
            stack.callback(worker.kill)
        for worker in found:
            assert heard(worker) == "ready"
        yield found


def heard(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def test_three_processes_that_want_it_at_once_have_it_read_once(valkey: ValkeyServer, key: str) -> None:
    valkey.start()
    with workers(valkey, key, 3, 10, 0.5) as found:
        for worker in found:
            tell(worker)
        told = [worker.communicate(timeout=30)[0].split("\n") for worker in found]
    assert sum(lines.count("loading") for lines in told) == 1
    assert all(json.loads(lines[-2]) == ["1"] * 20 for lines in told)


def test_a_process_that_dies_while_it_reads_keeps_the_others_for_the_time_of_its_lock_only(
    valkey: ValkeyServer, key: str
) -> None:
    valkey.start()
    with workers(valkey, key, 3, 1.5, 0.3) as (dying, *others):
        tell(dying)
        assert heard(dying) == "loading"
        dying.kill()
        begun = time.monotonic()
        for worker in others:
            tell(worker)
        told = [worker.communicate(timeout=30)[0].split("\n") for worker in others]
        assert 0.8 < time.monotonic() - begun < 4
    assert sum(lines.count("loading") for lines in told) == 1
    assert all(json.loads(lines[-2]) == ["2"] * 20 for lines in told)


@in_loop
async def test_a_value_is_read_anew_after_its_time(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client:
        for cache in (ReadCache(client), ReadCache(None)):
            source = Source()
            begun = time.monotonic()
            while source.loads < 3:
                await cache.get(key, 0.2, source)
                await asyncio.sleep(0.01)
            assert 0.35 < time.monotonic() - begun < 2
        assert 0 < await client.pttl(f"slate:read:{key}") <= (0.2 + read_cache.STALE_S) * 1000


@in_loop
async def test_while_one_reads_it_anew_the_others_get_the_old_one_at_once(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client, connected(valkey) as another:
        here, there = ReadCache(client), ReadCache(another)
        source = Source()
        await here.get(key, 0.05, source)
        await asyncio.sleep(0.1)
        source.gate.clear()
        source.value = b"second"
        reading = asyncio.create_task(here.get(key, 30, source))
        await until(lambda: source.loads == 2)
        for cache in (here, there, here, there):
            begun = time.monotonic()
            assert await cache.get(key, 30, source) == b"first"
            assert time.monotonic() - begun < 0.2
        source.gate.set()
        assert await reading == b"second"
        for cache in (here, there):
            assert await cache.get(key, 30, source) == b"second"
        assert source.loads == 2


@in_loop
async def test_an_error_goes_to_all_that_wait_and_is_not_kept(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client, connected(valkey) as another:
        for cache, other in ((ReadCache(client), ReadCache(another)), (ReadCache(None), ReadCache(None))):
            source = Source(open_=False)
            source.error = ValueError("no")
            wanted = [asyncio.create_task(cache.get(key, 30, source)) for _ in range(20)]
            await until(partial(getattr, source, "loads"))
            await asyncio.sleep(0.05)
            source.gate.set()
            told = await asyncio.gather(*wanted, return_exceptions=True)
            assert {str(one) for one in told} == {"no"}
            assert source.loads == 1
            source.error = None
            begun = time.monotonic()
            assert await other.get(key, 30, source) == b"first"
            assert time.monotonic() - begun < 1  # the lock was let go
            assert await cache.get(key, 30, source) == b"first"
            await client.delete(f"slate:read:{key}")


@in_loop
async def test_who_reads_for_too_long_does_not_put_an_old_value_over_a_newer_one(
    valkey: ValkeyServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_cache, "LOCK_S", 0.2)
    async with connected(valkey) as client, connected(valkey) as another:
        slow, quick = Source(open_=False), Source()
        quick.value = b"newer"
        waiting = asyncio.create_task(ReadCache(client).get(key, 30, slow))
        await until(lambda: slow.loads)
        assert await ReadCache(another).get(key, 30, quick) == b"newer"
        slow.gate.set()
        assert await waiting == b"first"
        assert await ReadCache(another).get(key, 30, quick) == b"newer"
        assert quick.loads == 1


@in_loop
async def test_who_stops_waiting_stops_nobody_else(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client:
        cache, source = ReadCache(client), Source(open_=False)
        first, second = (asyncio.create_task(cache.get(key, 30, source)) for _ in range(2))
        await until(lambda: source.loads)
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        source.gate.set()
        assert await second == b"first"
        assert source.loads == 1


@in_loop
async def test_what_many_want_costs_redis_a_question_now_and_then(valkey: ValkeyServer, key: str) -> None:
    async with connected(valkey) as client:
        cache, source = ReadCache(client), Source()
        await cache.get(key, 30, source)
        before = (await client.info("stats"))["total_commands_processed"]
        began = time.monotonic()
        for _ in range(1000):
            assert await cache.get(key, 30, source) == b"first"
        asked = (await client.info("stats"))["total_commands_processed"] - before
        assert asked <= 5 * (2 + (time.monotonic() - began) / NEAR_S)


@in_loop
async def test_without_redis_each_goes_on_by_itself_and_comes_back(
    valkey: ValkeyServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_cache, "NEAR_S", 0.0)
    valkey.start()
    async with connected(valkey) as client:
        cache, source = ReadCache(client), Source()
        assert await cache.get(key, 30, source) == b"first"
        valkey.kill()
        source.value = b"second"
        try:
            for _ in range(50):
                assert await cache.get(key, 30, source) == b"second"
            assert source.loads == 2
            assert away() == 1
            source.gate.clear()
            wanted = [asyncio.create_task(cache.get(f"{key}-other", 30, source)) for _ in range(20)]
            await until(lambda: source.loads == 3)
            source.gate.set()
            await asyncio.gather(*wanted)
            assert source.loads == 3
        finally:
            valkey.start()
        deadline = time.monotonic() + 10
        while away():
            assert time.monotonic() < deadline
            await cache.get(f"{key}-{secrets.token_hex(4)}", 30, source)
            await asyncio.sleep(0.05)


@in_loop
async def test_redis_may_go_while_somebody_reads_or_waits(valkey: ValkeyServer, key: str) -> None:
    valkey.start()
    async with connected(valkey) as client, connected(valkey) as another:
        mine, others = Source(open_=False), Source()
        first = asyncio.create_task(ReadCache(client).get(key, 30, mine))
        await until(lambda: mine.loads)
        waiting = asyncio.create_task(ReadCache(another).get(key, 30, others))
        await asyncio.sleep(0.1)
        assert others.loads == 0
        valkey.kill()
        try:
            assert await asyncio.wait_for(waiting, 5) == b"first"
            assert others.loads == 1
            mine.gate.set()
            assert await asyncio.wait_for(first, 5) == b"first"
        finally:
            valkey.start()


@in_loop
async def test_what_a_process_keeps_for_itself_is_bounded(key: str) -> None:
    cache = ReadCache(None)
    source = Source()
    source.value = bytes(1 << 20)
    for number in range(40):
        await cache.get(f"{key}-{number}", 300, source)
    assert source.loads == 40
    assert cache._memory._bytes <= LOCAL_BYTES
    await cache.get(f"{key}-39", 300, source)
    assert source.loads == 40
    await cache.get(f"{key}-0", 300, source)
    assert source.loads == 41
    source.value = bytes(LOCAL_BYTES + 1)
    assert len(await cache.get(f"{key}-large", 300, source)) > LOCAL_BYTES
    assert cache._memory._bytes <= LOCAL_BYTES
