"""What a stream is at a moment: its identity and extent."""

from datetime import datetime

import msgspec
from nats.js import JetStreamContext

from connectors.jetstream import partition_count


class StreamState(msgspec.Struct, frozen=True):
    """A stream's identity and extent: when it was created, and its first and last sequence.

    `partitions` is into how many it is divided, None where that is not known.
    """

    stream: str
    created: datetime
    first: int
    last: int
    partitions: int | None = None


async def stream_state(jetstream: JetStreamContext, stream: str) -> StreamState:
    """Ask the server for a stream's identity and extent.

    Raises:
        nats.js.errors.Error: there is no such stream, or no JetStream.
    """
    info = await jetstream.stream_info(stream)
    created = info.created
    if not isinstance(created, datetime):
        created = datetime.fromisoformat(str(created).replace("Z", "+00:00"))
    return StreamState(stream, created, info.state.first_seq, info.state.last_seq, partition_count(info.config))
