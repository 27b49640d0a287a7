"""Whether a stream has lost its end: what a disk had not yet when the power went, or what came after a backup.

What such a stream gets afterwards is new, under sequences that were read before.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import nats.js.errors
from nats.js import JetStreamContext

_LEADING_S: Final = 2.0
_SAME_S: Final = 0.001  # two messages of one sequence cannot be so near


class Extent(Protocol):
    """A stream's name, first and last sequence."""

    @property
    def stream(self) -> str: ...  # noqa: D102
    @property
    def first(self) -> int: ...  # noqa: D102
    @property
    def last(self) -> int: ...  # noqa: D102


async def last_kept(
    jetstream: JetStreamContext, look: Callable[[], Awaitable[Extent]], sequence: int, stored_at: int
) -> int | None:
    """The last sequence that is as it was when a message was read, None where the message is there still.

    Args:
        jetstream: where the stream is.
        look: asks for its extent.
        sequence: the message's.
        stored_at: its time, nanoseconds since 1970.

    Raises:
        nats.js.errors.Error: the stream cannot be looked at.
    """
    extent = await look()
    if sequence > extent.last:  # unless a server of the cluster leads that does not know all yet
        await asyncio.sleep(_LEADING_S)
        extent = await look()
    at = stored_at / 1e9
    if sequence <= extent.last:
        try:
            found = await jetstream.get_msg(extent.stream, seq=sequence)
        except nats.js.errors.NotFoundError:
            return None  # it was deleted
        if found.time is None or abs(found.time.timestamp() - at) < _SAME_S:
            return None
    return await _last_until(jetstream, extent, at)


async def _last_until(jetstream: JetStreamContext, extent: Extent, at: float) -> int:
    """The last sequence that was stored no later than that."""
    low, high = extent.first, extent.last + 1
    while low < high:
        middle = (low + high) // 2
        try:
            found = await jetstream.get_msg(extent.stream, seq=middle, subject=">", next=True)
        except nats.js.errors.NotFoundError:
            high = middle
            continue
        if found.time is not None and found.time.timestamp() > at + _SAME_S:
            high = middle
        else:
            low = (found.seq or middle) + 1
    return low - 1
