"""Traffic of several days with everything that makes counting hard: duplicates, repeated calls, what comes late."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent

_LONGEST_BACK = 2000


def history(count: int, start: datetime, period: timedelta, *, seed: int = 0) -> Iterator[SimulatedEvent]:
    """`count` messages of the benchmark's mix over `period`, in the order in which they are published.

    About 5 % are published once more, some at once and some much later; 3 % are calls that a later message changes;
    2 % come hours or days after their event time.
    """
    chance = random.Random(seed)
    recent: list[SimulatedEvent] = []
    for number, event in enumerate(bench_mix(count, seed=seed, start=start, period=period)):
        what = chance.random()
        recent.append(_late(event, chance) if what < 0.02 and event.valid else event)
        yield recent[-1]
        if len(recent) > _LONGEST_BACK:
            recent.pop(chance.randrange(len(recent)))
        if 0.02 <= what < 0.07:
            yield _repeated(chance.choice(recent), number)
        if what > 0.88 and (again := _changed(chance.choice(recent), number, chance)) is not None:
            yield again


def _fields(event: SimulatedEvent) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(event.payload, type=dict[str, msgspec.Raw]) if event.valid else {}


def _with(event: SimulatedEvent, msg_id: str | None, **told: object) -> SimulatedEvent:
    more = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in told.items()}
    return replace(event, payload=msgspec.json.encode(_fields(event) | more), msg_id=msg_id)


def _repeated(event: SimulatedEvent, number: int) -> SimulatedEvent:
    """The same event under the same identity; JetStream, which knows message ids only, takes it for another."""
    if not event.valid:
        return event
    return _with(event, f"repeated-{number}", eventId=event.identity)


def _late(event: SimulatedEvent, chance: random.Random) -> SimulatedEvent:
    late_ms = chance.choice([3_600_000, 86_400_000, 7 * 86_400_000])
    return _with(event, event.msg_id, timestamp=_time(event) - late_ms)


def _changed(event: SimulatedEvent, number: int, chance: random.Random) -> SimulatedEvent | None:
    """The same call with another outcome, if this is a call with an id of its own."""
    if "callId" not in _fields(event):
        return None
    return _with(
        event,
        f"changed-{number}",
        timestamp=_time(event) + chance.choice([-5000, 0, 5000, 90_000]),
        status=chance.choice(["success", "failed"]),
        durationMs=chance.randrange(5000),
    )


def _time(event: SimulatedEvent) -> int:
    return msgspec.json.decode(_fields(event)["timestamp"], type=int)
