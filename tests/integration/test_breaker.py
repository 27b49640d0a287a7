"""The breaker opens, tries again and closes as its figures say, for all instances alike, with Redis and without."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from unittest.mock import ANY

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from connectors.breaker import (
    Answer,
    Breaker,
    BreakerFigures,
    CircuitOpenError,
    Permit,
    SharedMachine,
    StateName,
)
from deploy.servers import ValkeyServer
from tests.support.redis_client import connected, in_loop

CLOSED, HALF_OPEN, OPEN = range(3)
QUICK = BreakerFigures(open_s=0.2)
LONG = BreakerFigures(open_s=600)
Changes = list[tuple[StateName, StateName]]


@pytest.fixture
def name() -> str:
    return f"test-{secrets.token_hex(4)}"


@asynccontextmanager
async def two_instances(
    valkey: ValkeyServer, name: str, figures: BreakerFigures, changes: Changes | None = None
) -> AsyncIterator[tuple[Breaker, Breaker]]:
    def changed(old: StateName, new: StateName) -> None:
        if changes is not None:
            changes.append((old, new))

    async with connected(valkey) as one, connected(valkey, decode_responses=True) as other:
        yield Breaker(one, name, figures, on_change=changed), Breaker(other, name, figures, on_change=changed)


async def admitted(breaker: Breaker, within_s: float = 10.0) -> Permit:
    """Ask until a call is let through."""
    deadline = monotonic() + within_s
    while True:
        try:
            return await breaker.admit()
        except CircuitOpenError as error:
            assert monotonic() < deadline, "no call was let through"
            await asyncio.sleep(min(error.retry_after_s, 0.02))


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    deadline = monotonic() + within_s
    while not await condition():
        assert monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


async def fail(breaker: Breaker, times: int = 5) -> None:
    for _ in range(times):
        await breaker.failed(await breaker.admit())


async def refused(breaker: Breaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        await breaker.admit()
    return caught.value


def metric(sample: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(sample, labels) or 0.0


def told(beginning: str, logs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [one["event"] for one in logs if one["event"].startswith(beginning)]


@in_loop
async def test_instances_share_it_and_say_when_to_try_again(valkey: ValkeyServer, name: str) -> None:
    async with two_instances(valkey, name, BreakerFigures(open_s=1.0)) as (one, other):
        assert await one.state() == "closed"
        await fail(one, 3)
        before = monotonic()
        await fail(other, 2)
        error = await refused(one)
        assert 0 < error.retry_after_s <= 1.0
        assert str(error) == f"{name} has failed 5 times in a row: tried again in 1 s"
        assert (error.name, await one.state(), await other.state()) == (name, "open", "open")
        permit = await admitted(other)
        assert monotonic() - before >= 1.0
        assert await one.state() == "half_open"
        await refused(one)
        await other.succeeded(permit)
        await one.succeeded(await one.admit())
        assert await other.state() == "closed"


@in_loop
async def test_of_many_calls_of_two_instances_one_makes_each_change_and_only_it_is_told(
    valkey: ValkeyServer, name: str
) -> None:
    changes: Changes = []
    async with two_instances(valkey, name, QUICK, changes) as instances:
        those = [instances[number % 2] for number in range(20)]
        permits = await asyncio.gather(*(one.admit() for one in those))
        await asyncio.gather(*(one.failed(permit) for one, permit in zip(those, permits, strict=True)))
        assert changes == [("closed", "open")]
        for outcome, last in (("failure", "open"), ("success", "closed")):
            changes.clear()
            probes: list[Permit] = []

            async def ask(breaker: Breaker, probes: list[Permit] = probes) -> None:
                try:
                    probes.append(await breaker.admit())
                except CircuitOpenError:
                    return

            async def tried(ask: Callable[[Breaker], Awaitable[None]] = ask) -> bool:
                await asyncio.gather(*(ask(one) for one in those))
                return bool(changes)

            await eventually(tried)
            assert changes == [("open", "half_open")]
            (probe,) = probes
            if outcome == "failure":
                await asyncio.gather(*(one.failed(probe) for one in those))
            else:
                await asyncio.gather(*(one.succeeded(probe) for one in those))
            assert changes == [("open", "half_open"), ("half_open", last)]
    total = sum(
        metric("spark_circuit_breaker_transitions_total", name=name, state=state)
        for state in ("open", "half_open", "closed")
    )
    assert total == 5


@in_loop
async def test_the_metric_shows_the_state_that_this_process_saw_last(valkey: ValkeyServer, name: str) -> None:
    async with two_instances(valkey, name, QUICK) as (breaker, _):
        await breaker.admit()
        assert metric("spark_circuit_breaker_state", name=name) == CLOSED
        await fail(breaker)
        assert metric("spark_circuit_breaker_state", name=name) == OPEN
        await admitted(breaker)
        assert metric("spark_circuit_breaker_state", name=name) == HALF_OPEN


@in_loop
async def test_an_answer_that_another_has_overtaken_is_not_what_was_seen_last(
    valkey: ValkeyServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, overtaken = asyncio.Event(), asyncio.Event()
    look = SharedMachine.look

    async def slow(shared: SharedMachine) -> Answer:
        answer = await look(shared)
        looked.set()
        await overtaken.wait()
        return answer

    monkeypatch.setattr(SharedMachine, "look", slow)
    async with two_instances(valkey, name, LONG) as (breaker, _):
        task = asyncio.create_task(breaker.state())
        await asyncio.wait_for(looked.wait(), 10)
        await fail(breaker)
        overtaken.set()
        assert await task == "closed"
        assert metric("spark_circuit_breaker_state", name=name) == OPEN


@in_loop
async def test_what_redis_holds_goes_after_a_day_and_a_breaker_without_failures_holds_nothing(
    valkey: ValkeyServer, name: str
) -> None:
    key = f"slate:breaker:{name}"
    async with connected(valkey, decode_responses=True) as client:
        breaker = Breaker(client, name, QUICK)
        await breaker.succeeded(await breaker.admit())
        assert not await client.exists(key)
        await fail(breaker, 1)
        assert 86_390 < await client.ttl(key) <= 86_400
        await fail(breaker, 4)
        assert 86_390 < await client.ttl(key) <= 86_400
        await client.persist(key)
        await admitted(breaker)
        assert 86_390 < await client.ttl(key) <= 86_400
        assert (await client.hgetall(key))["state"] == "half_open"


@in_loop
async def test_scripts_come_again_where_redis_has_lost_them(valkey: ValkeyServer, name: str) -> None:
    async with connected(valkey) as client:
        breaker = Breaker(client, name)
        await fail(breaker, 4)
        await client.script_flush()
        with capture_logs() as logs:
            await fail(breaker, 1)
            assert await breaker.state() == "open"
        assert [one["event"] for one in logs] == ["a circuit breaker changed"]


@in_loop
async def test_a_listener_that_fails_does_not_fail_the_call(valkey: ValkeyServer, name: str) -> None:
    def listener(old: str, new: str) -> None:
        raise RuntimeError(f"{old} {new}")

    async with connected(valkey) as client:
        breaker = Breaker(client, name, on_change=listener)
        with capture_logs() as logs:
            await fail(breaker)
        assert await breaker.state() == "open"
        assert any(one["log_level"] == "error" for one in logs)


class OursError(Exception):
    """The caller's own fault: the other side answered."""


def counts(error: BaseException) -> bool:
    return not isinstance(error, OursError)


@pytest.mark.parametrize(
    ("raised", "failures"),
    [(None, 0), (OursError(), 0), (TimeoutError(), 5), (asyncio.CancelledError(), 4), (KeyboardInterrupt(), 4)],
    ids=repr,
)
@in_loop
async def test_a_call_reports_what_became_of_it(
    valkey: ValkeyServer, name: str, raised: BaseException | None, failures: int
) -> None:
    async with connected(valkey) as client:
        breaker, shared = Breaker(client, name, LONG), SharedMachine(client, name, LONG)
        await fail(breaker, 4)
        caught: BaseException | None = None
        try:
            async with breaker.call(counts=counts):
                if raised is not None:
                    raise raised
        except BaseException as error:  # noqa: BLE001 - that is what is looked at
            caught = error
        assert caught is raised
        answer = await shared.look()
        assert (answer.state, answer.failures) == ((OPEN, 0) if failures == 5 else (CLOSED, failures))


@in_loop
async def test_a_call_that_is_cancelled_gives_its_place_back(valkey: ValkeyServer, name: str) -> None:
    begun = asyncio.Event()

    async def hang(breaker: Breaker) -> None:
        async with breaker.call(counts=counts):
            begun.set()
            await asyncio.Event().wait()

    async with connected(valkey) as client:
        breaker = Breaker(client, name, QUICK)
        await fail(breaker)
        await breaker.ignored(await admitted(breaker))
        task = asyncio.create_task(hang(breaker))
        await asyncio.wait_for(begun.wait(), 10)
        await refused(breaker)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await breaker.state() == "half_open"
        await breaker.admit()


@in_loop
async def test_a_call_is_not_made_while_it_is_open(valkey: ValkeyServer, name: str) -> None:
    made = []
    async with connected(valkey) as client:
        breaker = Breaker(client, name, LONG)
        await fail(breaker)
        with pytest.raises(CircuitOpenError):
            async with breaker.call(counts=counts):
                made.append(1)
    assert not made


@pytest.fixture
def mortal(valkey: ValkeyServer) -> Iterator[ValkeyServer]:
    yield valkey
    valkey.resume()
    valkey.start()


@in_loop
async def test_without_redis_each_instance_goes_on_from_what_it_saw_and_joins_again(
    mortal: ValkeyServer, name: str
) -> None:
    changes: Changes = []
    async with two_instances(mortal, name, LONG, changes) as (one, other):
        await fail(one, 3)
        early = await one.admit()
        assert await other.state() == "closed"
        mortal.kill()
        with capture_logs() as logs:
            await one.failed(early)  # the fourth that it knows of, though Redis gave the permit
            assert await one.state() == "closed"
            await fail(one, 1)
            await refused(one)
            assert metric("spark_redis_away", part=f"breaker:{name}") == 1
            await fail(other, 1)
            assert await other.state() == "closed"
            assert changes == [("closed", "open")]
            mortal.start()  # not on a thread of its own: the server ends with the thread that started it

            async def joined() -> bool:
                states = [await breaker.state() for breaker in (one, other)]
                return states == ["closed", "closed"] and len(told("Redis is back", logs)) == 2

            await eventually(joined)
            assert len(told("Redis is away", logs)) == 2
        assert metric("spark_redis_away", part=f"breaker:{name}") == 0
        await fail(one, 1)
        await fail(other, 1)
        assert [await one.state(), await other.state()] == ["open", "open"]


@in_loop
async def test_a_redis_that_hangs_is_away_until_it_answers(mortal: ValkeyServer, name: str) -> None:
    async with two_instances(mortal, name, LONG) as (breaker, _):
        await breaker.admit()
        mortal.pause()
        await fail(breaker)
        assert await breaker.state() == "open"
        mortal.resume()

        async def back() -> bool:
            await breaker.state()
            return metric("spark_redis_away", part=f"breaker:{name}") == 0

        await eventually(back)


@in_loop
async def test_what_was_open_stays_open_when_redis_goes_and_for_no_longer(mortal: ValkeyServer, name: str) -> None:
    now = 50.0
    async with connected(mortal) as client:
        breaker = Breaker(client, name, LONG, clock=lambda: now)
        await fail(breaker)
        left = (await refused(breaker)).retry_after_s
        mortal.kill()
        now += 400
        assert (await refused(breaker)).retry_after_s == pytest.approx(left - 400)
        now += left - 400
        permit = await breaker.admit()
        await refused(breaker)
        await breaker.succeeded(permit)
        await breaker.succeeded(await breaker.admit())
        assert await breaker.state() == "closed"


@in_loop
async def test_a_redis_that_refuses_to_write_is_away(valkey: ValkeyServer, name: str) -> None:
    async with connected(valkey) as client:
        breaker = Breaker(client, name, LONG)
        await client.config_set("min-replicas-to-write", 1)
        try:
            await fail(breaker)
            await refused(breaker)
        finally:
            await client.config_set("min-replicas-to-write", 0)
        assert await SharedMachine(client, name, LONG).look() == (False, 0, 0, 0, 0, 0, 0, ANY)


@in_loop
async def test_without_any_redis_it_works_alone_and_says_so_once(name: str) -> None:
    now = 1000.0
    changes: Changes = []
    breaker = Breaker(None, name, on_change=lambda old, new: changes.append((old, new)), clock=lambda: now)
    with capture_logs() as logs:
        await fail(breaker)
        assert (await refused(breaker)).retry_after_s == 60
        now += 60
        for _ in range(2):
            permit = await breaker.admit()
            await refused(breaker)
            await breaker.succeeded(permit)
        assert await breaker.state() == "closed"
    assert changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert len(told("Redis", logs)) == 1
    assert metric("spark_redis_away", part=f"breaker:{name}") == 1
