"""A circuit breaker whose state lives in Redis: what one instance finds out, all instances know.

Guarantee: each operation is one Lua script, so that of all reports exactly one opens or closes the breaker, and only
the instance that made it hears of it (`on_change`). Time is Redis' own. A report counts only if the breaker has not
changed its state since the permit was given: calls that began before it opened neither close it nor open it again.

While Redis is away each instance goes on from what it last saw, with a state machine of its own (`Machine`); when Redis
is back, what Redis holds is true again, and nobody hears of that difference.
"""

import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis

from connectors.errors import SlateError
from connectors.redis_fallback import Fallback

StateName = Literal["closed", "open", "half_open"]
Outcome = Literal["success", "failure", "ignored"]

STATE: Final = Gauge(
    "spark_circuit_breaker_state", "0 closed, 1 half-open, 2 open, as last seen by this process", ["name"]
)
TRANSITIONS: Final = Counter("spark_circuit_breaker_transitions", "Changes that this process caused", ["name", "state"])
_NAMES: Final[tuple[StateName, ...]] = ("closed", "half_open", "open")
_CLOSED, _HALF_OPEN, _OPEN = range(3)

_log = structlog.get_logger(__name__)


class CircuitOpenError(SlateError):
    """The other side has failed too often, and is left alone for a while.

    `retry_after_s`: when a call may be let through; while the breaker is half-open, by when at the latest.
    """

    def __init__(self, name: str, retry_after_s: float, failures: int) -> None:
        super().__init__(f"{name} has failed {failures} times in a row: tried again in {math.ceil(retry_after_s)} s")
        self.name = name
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class BreakerFigures:
    """When a breaker changes its state. All instances must use the same."""

    failures: int = 5
    """So many in a row open it."""
    open_s: float = 60.0
    """Seconds for which nothing is let through."""
    successes: int = 2
    """So many in half-open close it; one failure opens it again."""
    probes: int = 1
    """How many calls may be under way at once in half-open."""
    probe_s: float = 35.0
    """Seconds after which a call that was not reported no longer takes a place in half-open: its process may be gone.
    Longer than any call takes."""


@dataclass(frozen=True)
class Permit:
    """Leave to make one call; it is to be reported once."""

    generation: int
    probe: str | None


class Answer(NamedTuple):
    """What an operation did, all as integers; times are microseconds, states are those of the metric."""

    admitted: bool
    old: int
    state: int
    generation: int
    """When the state last changed, which tells a state from an earlier one of the same name; 0 if it never did."""
    failures: int
    successes: int
    wait: int
    """Until the next call may be let through."""
    at: int


class Machine:
    """The breaker in memory. Takes `now`, in microseconds; the scripts below say the same in Lua."""

    def __init__(self, figures: BreakerFigures) -> None:
        self._figures = figures
        self._state = _CLOSED
        self._generation = 0
        self._failures = 0
        self._successes = 0
        self._until = 0
        self._probes: dict[str, int] = {}

    def admit(self, token: str, now: int) -> Answer:
        """Ask to make a call; `token` names it if it becomes a probe."""
        old = self._state
        if self._state == _OPEN and now >= self._until:
            self._change(_HALF_OPEN, now)
        if self._state == _HALF_OPEN:
            self._probes = {name: ends for name, ends in self._probes.items() if ends > now}
            if len(self._probes) >= self._figures.probes:
                return self._answer(old, now, wait=min(self._probes.values()) - now)
            self._probes[token] = now + _us(self._figures.probe_s)
        return self._answer(old, now, admitted=self._state != _OPEN)

    def report(self, permit: Permit, outcome: Outcome, now: int) -> Answer:
        """Say what became of a call."""
        old = self._state
        if permit.generation != self._generation:
            return self._answer(old, now)
        self._probes.pop(permit.probe or "", None)
        if outcome == "failure" and self._state == _CLOSED:
            self._failures += 1
        elif outcome == "success" and self._state == _CLOSED:
            self._failures = 0
        elif outcome == "success":
            self._successes += 1
        if self._failures >= self._figures.failures or (outcome == "failure" and self._state == _HALF_OPEN):
            self._change(_OPEN, now)
        elif self._successes >= self._figures.successes:
            self._change(_CLOSED, now)
        return self._answer(old, now)

    def look(self, now: int) -> Answer:
        """The state as it is."""
        return self._answer(self._state, now)

    def adopt(self, seen: Answer, now: int) -> None:
        """Go on from an answer of Redis."""
        self._state, self._generation = seen.state, seen.generation
        self._failures, self._successes = seen.failures, seen.successes
        self._until = now + seen.wait
        self._probes.clear()

    def _change(self, state: int, now: int) -> None:
        self._state = state
        self._generation = max(now, self._generation + 1)
        self._failures = self._successes = 0
        self._until = now + _us(self._figures.open_s)
        self._probes.clear()

    def _answer(self, old: int, now: int, *, admitted: bool = False, wait: int = 0) -> Answer:
        if self._state == _OPEN:
            wait = max(0, self._until - now)
        return Answer(admitted, old, self._state, self._generation, self._failures, self._successes, wait, now)


_BEGIN = """
local key, now = KEYS[1], tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local most_failures, open_us, enough_successes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most_probes, probe_us = tonumber(ARGV[5]), tonumber(ARGV[6])

local b = {state = 'closed', generation = 0, failures = 0, successes = 0, until_us = 0}
local probes = {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  local name, value = stored[i], stored[i + 1]
  if name:sub(1, 6) == 'probe:' then probes[name] = tonumber(value)
  elseif name == 'state' then b.state = value
  else b[name] = tonumber(value) end
end
local old = b.state

local function set(...)
  redis.call('HSET', key, ...)
  redis.call('EXPIRE', key, 86400)
end

local function change(state)
  b = {state = state, generation = math.max(now, b.generation + 1), failures = 0, successes = 0}
  b.until_us = now + open_us
  probes = {}
  redis.call('DEL', key)
  set('state', state, 'generation', string.format('%.0f', b.generation), 'until_us', string.format('%.0f', b.until_us))
end

local function answer(admitted, wait)
  local codes = {closed = 0, half_open = 1, open = 2}
  if b.state == 'open' then wait = math.max(0, b.until_us - now) end
  return {admitted and 1 or 0, codes[old], codes[b.state], b.generation, b.failures, b.successes, wait, now}
end
"""
_ADMIT = """
local token = ARGV[7]
if b.state == 'open' and now >= b.until_us then change('half_open') end
if b.state == 'half_open' then
  local count, first = 0, math.huge
  for name, ends in pairs(probes) do
    if ends > now then
      count = count + 1
      first = math.min(first, ends)
    else
      redis.call('HDEL', key, name)
    end
  end
  if count >= most_probes then return answer(false, first - now) end
  set('probe:' .. token, string.format('%.0f', now + probe_us))
end
return answer(b.state ~= 'open', 0)
"""
_REPORT = """
local outcome, generation, token = ARGV[7], tonumber(ARGV[8]), ARGV[9]
if generation ~= b.generation then return answer(false, 0) end
if probes['probe:' .. token] then redis.call('HDEL', key, 'probe:' .. token) end
if outcome == 'failure' and b.state == 'closed' then
  b.failures = b.failures + 1
  set('failures', b.failures)
elseif outcome == 'success' and b.state == 'closed' then
  if b.failures > 0 then set('failures', 0) end
  b.failures = 0
elseif outcome == 'success' then
  b.successes = b.successes + 1
  set('successes', b.successes)
end
if b.failures >= most_failures or (outcome == 'failure' and b.state == 'half_open') then change('open')
elseif b.successes >= enough_successes then change('closed') end
return answer(false, 0)
"""
_LOOK = "return answer(false, 0)"


class SharedMachine:
    """The breaker in Redis, the hash `slate:breaker:<name>`. Where `now` is None, Redis' clock is used."""

    def __init__(self, client: Redis, name: str, figures: BreakerFigures) -> None:
        self._key = f"slate:breaker:{name}"
        self._scripts = {
            operation: client.register_script(_BEGIN + body)
            for operation, body in (("admit", _ADMIT), ("report", _REPORT), ("look", _LOOK))
        }
        self._figures = (
            figures.failures,
            _us(figures.open_s),
            figures.successes,
            figures.probes,
            _us(figures.probe_s),
        )

    async def admit(self, token: str, now: int | None = None) -> Answer:
        """As `Machine.admit`."""
        return await self._run("admit", now, token)

    async def report(self, permit: Permit, outcome: Outcome, now: int | None = None) -> Answer:
        """As `Machine.report`."""
        return await self._run("report", now, outcome, permit.generation, permit.probe or "")

    async def look(self, now: int | None = None) -> Answer:
        """As `Machine.look`."""
        return await self._run("look", now)

    async def _run(self, operation: str, now: int | None, *more: str | int) -> Answer:
        arguments = ["" if now is None else now, *self._figures, *more]
        admitted, *others = await self._scripts[operation](keys=[self._key], args=arguments)
        return Answer(bool(admitted), *others)


class Breaker:
    """Keeps calls from another side that has failed several times in a row.

    Args:
        client: Redis, for all instances; with a short `socket_timeout`, and best without retries, as a script that is
            sent twice counts twice. None: this instance is alone.
        name: the other side; the same in all instances.
        figures: when it opens and closes.
        on_change: called with the old and the new state by the one instance that caused it.
        fallback: shared by breakers of the same Redis, so that not each finds out by itself that it is away.
        clock: seconds, monotonic, for the time without Redis.
    """

    def __init__(
        self,
        client: Redis | None,
        name: str,
        figures: BreakerFigures = BreakerFigures(),
        *,
        on_change: Callable[[StateName, StateName], None] | None = None,
        fallback: Fallback | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._figures = figures
        self._on_change = on_change
        self._clock = clock
        self._shared = SharedMachine(client, name, figures) if client is not None else None
        self._local = Machine(figures)
        self._fallback = fallback or Fallback(f"breaker:{name}", clock)
        self._seen_at = 0

    async def admit(self) -> Permit:
        """Leave to make one call. Report it, else it takes a place in half-open for `probe_s`.

        Raises:
            CircuitOpenError: the other side is to be left alone.
        """
        token = secrets.token_hex(8)
        answer = await self._ask(lambda shared: shared.admit(token), lambda now: self._local.admit(token, now))
        if not answer.admitted:
            raise CircuitOpenError(self.name, answer.wait / 1e6, self._figures.failures)
        return Permit(answer.generation, token if answer.state == _HALF_OPEN else None)

    async def succeeded(self, permit: Permit) -> None:
        """The other side did what it was asked, or answered that it would not."""
        await self._report(permit, "success")

    async def failed(self, permit: Permit) -> None:
        """The other side did not answer, or failed."""
        await self._report(permit, "failure")

    async def ignored(self, permit: Permit) -> None:
        """The call says nothing about the other side: it was cancelled, or never reached it."""
        await self._report(permit, "ignored")

    @asynccontextmanager
    async def call(self, *, counts: Callable[[BaseException], bool]) -> AsyncIterator[None]:
        """Make a call and report it. A time-out belongs inside: one around it cancels the call, which says nothing.

        Args:
            counts: whether an exception is a failure of the other side; with any other it did answer.

        Raises:
            CircuitOpenError: the other side is to be left alone.
        """
        permit = await self.admit()
        try:
            yield
        except Exception as error:
            await self._report(permit, "failure" if counts(error) else "success")
            raise
        except BaseException:  # cancelled: says nothing
            await self.ignored(permit)
            raise
        await self.succeeded(permit)

    async def state(self) -> StateName:
        """The state now. An open one stays open, however long, until a call is admitted."""
        answer = await self._ask(lambda shared: shared.look(), self._local.look)
        return _NAMES[answer.state]

    async def _report(self, permit: Permit, outcome: Outcome) -> None:
        await self._ask(
            lambda shared: shared.report(permit, outcome), lambda now: self._local.report(permit, outcome, now)
        )

    async def _ask(
        self, remote: Callable[[SharedMachine], Awaitable[Answer]], local: Callable[[int], Answer]
    ) -> Answer:
        shared = self._shared

        def alone() -> Answer:
            answer = local(_us(self._clock()))
            STATE.labels(name=self.name).set(answer.state)
            return answer

        answer = await self._fallback.run(None if shared is None else lambda: self._seen(remote(shared)), alone)
        if answer.old != answer.state:
            self._changed(_NAMES[answer.old], _NAMES[answer.state])
        return answer

    async def _seen(self, asked: Awaitable[Answer]) -> Answer:
        answer = await asked
        if answer.at >= self._seen_at:  # answers may overtake each other
            self._seen_at = answer.at
            self._local.adopt(answer, _us(self._clock()))
            STATE.labels(name=self.name).set(answer.state)
        return answer

    def _changed(self, old: StateName, new: StateName) -> None:
        TRANSITIONS.labels(name=self.name, state=new).inc()
        log = _log.warning if new == "open" else _log.info
        log("a circuit breaker changed", name=self.name, old=old, new=new)
        if self._on_change is not None:
            try:
                self._on_change(old, new)
            except Exception:  # noqa: BLE001 - whoever listens must not fail the call
                _log.exception("a listener of a circuit breaker failed: this is a fault of the program", name=self.name)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
