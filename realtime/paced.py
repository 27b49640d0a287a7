"""Publishing events at their time, counted by kind, with a sample of how long acknowledgements take."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from realtime.simulated import SimulatedEvent

SAMPLE_EVERY_S: Final = 0.1
"""Time between two measurements of an acknowledgement; each lets the window run empty once."""


class Publishes(Protocol):
    """What this needs of `connectors.publisher.Publisher`."""

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None) -> None:
        """Hand over one message; returns when there is room."""

    async def flush(self) -> None:
        """Wait until every message so far is acknowledged."""


class Tally:
    """What was handed to the publisher. `ack_seconds` are the newest measurements, at most 10,000."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.published = 0
        self.repeats = 0
        self.ack_seconds: deque[float] = deque(maxlen=10_000)

    def add(self, event: SimulatedEvent) -> None:
        """Count one message."""
        self.kinds[event.kind] += 1
        self.published += 1
        self.repeats += event.repeat


async def publish_paced(
    events: Iterable[SimulatedEvent],
    publisher: Publishes,
    tally: Tally,
    stop: asyncio.Event,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Publish each event when it is due, counted from now; one that is overdue goes at once.

    Returns when the last one is acknowledged, or those up to where `stop` was set. `each` is called after
    every message.

    Raises:
        PublishError: JetStream did not acknowledge a message.
    """
    clock = asyncio.get_running_loop().time
    begun = sample_at = clock()
    for event in events:
        ahead = begun + event.due - clock()
        if ahead > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(ahead):
                    await stop.wait()
        if stop.is_set():
            break
        sent = clock()
        await publisher.publish(event.subject, event.payload, msg_id=event.msg_id)
        tally.add(event)
        if sent >= sample_at:
            await publisher.flush()
            sample_at = clock()
            tally.ack_seconds.append(sample_at - sent)
            sample_at += SAMPLE_EVERY_S
        each()
    await publisher.flush()
