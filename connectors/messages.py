"""What a NATS source hands over: stored messages, in batches of one partition."""

import msgspec


def header_key(name: str) -> bytes:
    """How a header begins in a block of headers."""
    return f"\r\n{name}:".encode()


class NatsSourceMessage(msgspec.Struct, frozen=True, gc=False):
    """One message as JetStream stored it.

    `sequence` is its place in the stream, `stored_at` the server's time in nanoseconds since 1970 (UTC), and
    `headers` the raw header block (`NATS/1.0` line included), empty when there is none.
    """

    subject: str
    payload: bytes
    sequence: int
    stored_at: int
    headers: bytes = b""

    def header(self, key: bytes) -> bytes | None:
        """The first value of a header, or None.

        `key` is its name as `header_key` gives it. Names are case-sensitive, as in the NATS server.
        """
        block = self.headers
        start = block.find(key)
        if start < 0:
            return None
        start += len(key)
        return block[start : block.find(b"\r\n", start)].strip()


class NatsBatch(msgspec.Struct, frozen=True, gc=False):
    """What a partition of a stream held between two of its positions, in stream order.

    `after` is the position before the batch and `position` the one after it: a reader that resumes from
    `position` misses nothing and repeats nothing. `messages` may be empty: then the partition was idle while the
    stream went on.
    """

    stream: str
    partition: int
    after: int
    position: int
    messages: list[NatsSourceMessage]

    @property
    def position_at(self) -> int | None:
        """When the message at `position` was stored, microseconds since 1970, None where it is not in the batch."""
        last = self.messages[-1] if self.messages else None
        return last.stored_at // 1000 if last is not None and last.sequence == self.position else None

    def split(self) -> tuple["NatsBatch", "NatsBatch"]:
        """Two halves, in order."""
        middle = len(self.messages) // 2
        cut = self.messages[middle - 1].sequence
        return (
            NatsBatch(self.stream, self.partition, self.after, cut, self.messages[:middle]),
            NatsBatch(self.stream, self.partition, cut, self.position, self.messages[middle:]),
        )
