"""The fast lane into the NATS client: whole chunks of a partition's messages, without a task or an object for each.

`nats-py` spends 27 us on a message of a pull consumer and 7 on one of a push consumer (`docs/performance.md`), most
of it in five regular expressions, a header dictionary and an `asyncio.Queue`. `LaneClient` keeps its connection,
authentication, TLS and reconnection, and replaces the parser: messages for a subscription that a lane has claimed
are cut out of the read buffer and appended to that lane; everything else goes the library's way. This touches private
parts (`_ps`, `_process_msg`, a subscription's `_id`), so the version is pinned and `tests/unit/test_lanes.py` holds the
library to them.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser


class Lane(Protocol):
    """Who takes the messages of one subscription. Called on the event loop; must not block."""

    def accept(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """Take one message of the chunk that is being read."""

    def chunk_end(self) -> None:
        """The chunk is read: hand on what it held."""


class LaneParser(Parser):
    """Cuts `MSG` and `HMSG` out of the read buffer; leaves all other protocol lines to the library's parser."""

    def __init__(self, client: "LaneClient") -> None:
        super().__init__(client)
        self._client = client
        self._rest = b""
        self.lanes: dict[bytes, Lane] = {}

    def reset(self) -> None:
        """Forget a half-read message, as after a lost connection."""
        super().reset()
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        """Read what the server sent, and keep an unfinished message for the next call.

        Raises:
            ProtocolError: a line that no server writes; the client connects anew.
        """
        if self._rest:
            data = self._rest + data
        end = len(data)
        at = 0
        lanes = self.lanes
        touched: set[Lane] = set()
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            start = line_end + 2
            try:
                if data.startswith(b"HMSG ", at):
                    words = data[at:line_end].split(b" ")
                    stop = start + int(words[-1])
                    body = start + int(words[-2])
                    most = 6
                elif data.startswith(b"MSG ", at):
                    words = data[at:line_end].split(b" ")
                    stop = start + int(words[-1])
                    body = start
                    most = 5
                else:
                    await super().parse(data[at:start])
                    at = start
                    continue
                reply = words[3] if len(words) == most else b""
                subject, lane = words[1], lanes.get(words[2])
                sid = int(words[2]) if lane is None else 0
            except (ValueError, IndexError):
                raise ProtocolError("nats: malformed line") from None  # any other error would end reading for good
            if not start <= body <= stop or not most - 1 <= len(words) <= most:
                raise ProtocolError("nats: malformed line")
            if stop + 2 > end:
                break
            if lane is not None:
                lane.accept(subject, reply, data[start:body], data[body:stop])
                touched.add(lane)
            else:
                await self._client._process_msg(sid, subject, reply, data[body:stop], data[start:body])
            at = stop + 2
        self._rest = data[at:]
        for lane in touched:
            lane.chunk_end()


class LaneClient(Client):
    """A NATS client some of whose subscriptions deliver to lanes."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: LaneParser = LaneParser(self)

    async def claim(self, inbox: str, lane: Lane) -> Callable[[], Awaitable[None]]:
        """Subscribe to `inbox` and deliver to `lane`; the result ends the subscription."""
        subscription = await self.subscribe(inbox)
        key = str(subscription._id).encode()
        self._ps.lanes[key] = lane

        async def release() -> None:
            self._ps.lanes.pop(key, None)
            if self.is_connected:
                await subscription.unsubscribe()

        return release
