"""The breaker's rules, to the microsecond: Lua and Python are asked the same at the same time."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from connectors.breaker import Answer, BreakerFigures, Machine, Outcome, Permit, SharedMachine
from deploy.servers import ValkeyServer
from tests.support.redis_client import connected, in_loop

START = 1_772_000_000_000_000
SECOND = 1_000_000
CLOSED, HALF_OPEN, OPEN = range(3)
CHANGES = {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
FAILURE: tuple[Outcome] = ("failure",)


class Both:
    """The machine of Lua and the one of Python: asked the same at the same time, they must say the same."""

    def __init__(self, client: Redis, figures: BreakerFigures) -> None:
        self.now = START
        self._lua = SharedMachine(client, f"test-{secrets.token_hex(8)}", figures)
        self._python = Machine(figures)
        self._calls = 0

    async def admit(self) -> tuple[Permit | None, Answer]:
        self._calls += 1
        token = str(self._calls)
        answer = self._python.admit(token, self.now)
        assert await self._lua.admit(token, self.now) == answer
        permit = Permit(answer.generation, token if answer.state == HALF_OPEN else None)
        return (permit if answer.admitted else None), answer

    async def report(self, permit: Permit, outcome: Outcome) -> Answer:
        answer = self._python.report(permit, outcome, self.now)
        assert await self._lua.report(permit, outcome, self.now) == answer
        return await self.look(answer)

    async def look(self, expected: Answer) -> Answer:
        answer = self._python.look(self.now)
        assert await self._lua.look(self.now) == answer
        assert answer.state == expected.state
        return answer

    async def permit(self) -> Permit:
        permit, _ = await self.admit()
        assert permit is not None
        return permit

    async def call(self, *outcomes: Outcome) -> int:
        """Make calls one after another; returns the state after the last."""
        state = -1
        for outcome in outcomes:
            state = (await self.report(await self.permit(), outcome)).state
        return state

    async def wait(self) -> int:
        """Microseconds until the next call, which is refused now."""
        permit, answer = await self.admit()
        assert permit is None
        return answer.wait


@asynccontextmanager
async def both(valkey: ValkeyServer, figures: BreakerFigures | None = None) -> AsyncIterator[Both]:
    async with connected(valkey) as client:
        yield Both(client, figures or BreakerFigures())


@in_loop
async def test_five_failures_in_a_row_open_it_for_a_minute(valkey: ValkeyServer) -> None:
    async with both(valkey) as breaker:
        assert await breaker.call(*FAILURE * 4) == CLOSED
        assert await breaker.call("failure") == OPEN
        assert await breaker.wait() == 60 * SECOND
        breaker.now += 60 * SECOND - 1
        assert await breaker.wait() == 1
        breaker.now += 1
        _, answer = await breaker.admit()
        assert (answer.admitted, answer.old, answer.state) == (True, OPEN, HALF_OPEN)


@in_loop
async def test_a_success_in_between_begins_the_count_again_and_an_ignored_call_does_not(valkey: ValkeyServer) -> None:
    async with both(valkey) as breaker:
        for _ in range(3):
            assert await breaker.call(*FAILURE * 4, "success") == CLOSED
        assert await breaker.call(*FAILURE * 4, "ignored", "failure") == OPEN


@in_loop
async def test_two_successes_in_half_open_close_it_and_the_count_begins_at_nothing(valkey: ValkeyServer) -> None:
    async with both(valkey) as breaker:
        await breaker.call(*FAILURE * 5)
        breaker.now += 60 * SECOND
        assert await breaker.call("success") == HALF_OPEN
        assert await breaker.call("success") == CLOSED
        assert await breaker.call(*FAILURE * 4) == CLOSED
        assert await breaker.call("failure") == OPEN


@in_loop
async def test_a_failure_in_half_open_opens_it_for_another_minute(valkey: ValkeyServer) -> None:
    async with both(valkey) as breaker:
        await breaker.call(*FAILURE * 5)
        breaker.now += 61 * SECOND
        assert await breaker.call("success", "failure") == OPEN
        assert await breaker.wait() == 60 * SECOND
        breaker.now += 60 * SECOND
        assert await breaker.call("success") == HALF_OPEN  # the success before the failure counts no more
        assert await breaker.call("success") == CLOSED


@pytest.mark.parametrize("probes", [1, 3])
@in_loop
async def test_half_open_lets_a_few_calls_through_at_once_and_a_reported_one_makes_place(
    valkey: ValkeyServer, probes: int
) -> None:
    async with both(valkey, BreakerFigures(probes=probes, successes=9)) as breaker:
        await breaker.call(*FAILURE * 5)
        breaker.now += 60 * SECOND
        permits = [await breaker.permit() for _ in range(probes)]
        breaker.now += SECOND
        assert await breaker.wait() == 34 * SECOND
        for outcome in ("ignored", "success"):
            await breaker.report(permits.pop(), outcome)
            permits.append(await breaker.permit())
            await breaker.wait()


@in_loop
async def test_a_probe_that_nobody_reports_makes_place_after_a_while_and_still_counts_late(
    valkey: ValkeyServer,
) -> None:
    async with both(valkey) as breaker:
        await breaker.call(*FAILURE * 5)
        breaker.now += 60 * SECOND
        lost = await breaker.permit()
        breaker.now += 35 * SECOND - 1
        assert await breaker.wait() == 1
        breaker.now += 1
        await breaker.permit()
        await breaker.wait()
        await breaker.report(lost, "success")  # frees no place but its own, which it has lost
        await breaker.wait()
        assert (await breaker.report(lost, "failure")).state == OPEN


@pytest.mark.parametrize("outcome", ["success", "failure"])
@in_loop
async def test_stragglers_of_before_a_change_count_no_more(valkey: ValkeyServer, outcome: Outcome) -> None:
    async with both(valkey) as breaker:
        of_closed = [await breaker.permit() for _ in range(9)]
        for permit in of_closed[:5]:
            await breaker.report(permit, "failure")
        breaker.now += 30 * SECOND
        assert (await breaker.report(of_closed.pop(), outcome)).state == OPEN
        assert await breaker.wait() == 30 * SECOND
        breaker.now += 30 * SECOND
        probe = await breaker.permit()
        for permit in of_closed:
            assert (await breaker.report(permit, outcome)).state == HALF_OPEN
        await breaker.wait()  # and take nobody's place away
        await breaker.report(probe, "failure")
        breaker.now += 60 * SECOND
        await breaker.permit()
        assert (await breaker.report(probe, outcome)).state == HALF_OPEN
        breaker.now += 35 * SECOND
        assert await breaker.call("success", "success") == CLOSED
        await breaker.call(*FAILURE * 4)
        assert (await breaker.report(of_closed[-1], outcome)).failures == 4


def test_calls_of_an_earlier_time_without_redis_take_no_place_in_a_later_one() -> None:
    machine = Machine(BreakerFigures())
    half_open = Answer(False, HALF_OPEN, HALF_OPEN, START, 0, 0, 0, START)
    for token in ("before", "after"):
        machine.adopt(half_open, 0)
        assert machine.admit(token, 0).admitted
    assert not machine.admit("too many", 0).admitted


steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "success", "failure", "failure", "ignored"]),
        st.sampled_from([0, 0, 0, 1, 3, 6, 7, 10, 11]),
        st.integers(0, 30),
    ),
    max_size=60,
)


@hypothesis_settings(deadline=None, max_examples=200)
@given(steps=steps, failures=st.integers(1, 3), successes=st.integers(1, 3), probes=st.integers(1, 3))
@in_loop
async def test_lua_and_python_say_the_same_and_keep_the_rules_whatever_comes(
    valkey: ValkeyServer, steps: list[tuple[str, int, int]], failures: int, successes: int, probes: int
) -> None:
    figures = BreakerFigures(failures, 10 / SECOND, successes, probes, 7 / SECOND)

    async with both(valkey, figures) as breaker:
        permits: list[Permit] = []
        places: dict[Permit, int] = {}
        opened = 0
        state = CLOSED
        for operation, later, which in steps:
            breaker.now += later
            if operation == "admit":
                permit, answer = await breaker.admit()
                under_way = [one for one, ends in places.items() if ends > breaker.now]
                if state == OPEN:
                    assert answer.admitted == (breaker.now >= opened + 10)
                elif state == HALF_OPEN:
                    assert answer.admitted == (len(under_way) < probes)
                else:
                    assert answer.admitted
                assert answer.admitted or answer.wait > 0
                if permit is not None:
                    permits.append(permit)
                if permit is not None and permit.probe is not None:
                    places[permit] = breaker.now + 7
            elif permits:  # a late one, or one that was reported before, now and then
                permit = permits[-1 - which % len(permits)]
                answer = await breaker.report(permit, operation)  # type: ignore[arg-type]
                places.pop(permit, None)
            else:
                continue
            if answer.state != state:
                places = {one: ends for one, ends in places.items() if one.generation == answer.generation}
                opened = breaker.now if answer.state == OPEN else opened
                assert (state, answer.state) in CHANGES
            state = answer.state
