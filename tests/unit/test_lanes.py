"""The fast lane against the library's own parser, and the parts of the library that it stands on."""

import asyncio
import inspect
import json
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from connectors.lanes import LaneClient, LaneParser
from deploy.servers import NatsServer

Event = tuple[Any, ...]
words = st.text(st.characters(exclude_categories=["Cs", "C", "Z"]), min_size=1, max_size=12).map(str.encode)
sids = st.integers(1, 5)
bodies = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\r\n", b"\r\nPING\r\n", b"MSG a 1 2\r\nhi\r\n", b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", b"\r", b"\n"]
)
header_blocks = st.sampled_from(
    [b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nNats-Msg-Id: m-1\r\n\r\n", b"NATS/1.0 408 Request Timeout\r\n\r\n"]
)


def _msg(subject: bytes, sid: int, reply: bytes | None, body: bytes) -> bytes:
    told = b" ".join([b"MSG", subject, b"%d" % sid, *([reply] if reply else []), b"%d" % len(body)])
    return told + b"\r\n" + body + b"\r\n"


def _hmsg(subject: bytes, sid: int, reply: bytes | None, headers: bytes, body: bytes) -> bytes:
    sizes = b"%d %d" % (len(headers), len(headers) + len(body))
    told = b" ".join([b"HMSG", subject, b"%d" % sid, *([reply] if reply else []), sizes])
    return told + b"\r\n" + headers + body + b"\r\n"


messages = st.builds(_msg, words, sids, st.none() | words, bodies) | st.builds(
    _hmsg, words, sids, st.none() | words, header_blocks, bodies
)
controls = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow Consumer'\r\n"]) | st.dictionaries(
    st.text(max_size=5), st.integers()
).map(lambda info: b"INFO " + json.dumps(info).encode() + b"\r\n")
streams = st.lists(messages | controls, max_size=12).map(b"".join)


class Recorder(LaneClient):
    """A client that notes what its parser calls, instead of doing it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.events.append((sid, bytes(subject), bytes(reply), bytes(headers or b""), bytes(data)))

    async def _process_ping(self) -> None:
        self.events.append(("PING",))

    async def _process_pong(self) -> None:
        self.events.append(("PONG",))

    async def _process_err(self, err_msg: str) -> None:
        self.events.append(("ERR", err_msg))

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self.events.append(("INFO", info))


class RecordingLane:
    """Notes the messages of one subscription beside everything else."""

    def __init__(self, sid: int, events: list[Event]) -> None:
        self._sid = sid
        self._events = events
        self.open = 0
        self.ends = 0

    def accept(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.open += 1
        self._events.append((self._sid, subject, reply, headers, payload))

    def chunk_end(self) -> None:
        assert self.open
        self.open = 0
        self.ends += 1


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """The stream in chunks, cut at these places."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(edges)]


def read(parser: Parser, chunks: Sequence[bytes]) -> None:
    async def feed() -> None:
        for chunk in chunks:
            await parser.parse(chunk)

    asyncio.run(feed())


def lane_reader(claimed: Sequence[int]) -> tuple[LaneParser, Recorder, list[RecordingLane]]:
    client = Recorder()
    parser = LaneParser(client)
    lanes = [RecordingLane(sid, client.events) for sid in claimed]
    parser.lanes.update({b"%d" % sid: lane for sid, lane in zip(claimed, lanes, strict=True)})
    return parser, client, lanes


@settings(max_examples=400, deadline=None)
@given(streams, st.lists(st.integers(0, 10_000), max_size=12), st.sets(sids))
@example(_msg(b"a", 1, None, b"\r\nPING\r\n") + b"PING\r\n", [14, 15, 16], {1})
def test_any_split_of_a_stream_delivers_what_the_librarys_parser_delivers(
    stream: bytes, places: list[int], claimed: set[int]
) -> None:
    stock = Recorder()
    read(Parser(stock), [stream])
    parser, client, lanes = lane_reader(sorted(claimed))
    read(parser, cut(stream, places))
    assert client.events == stock.events
    assert all(not lane.open for lane in lanes)


@settings(max_examples=50, deadline=None)
@given(streams, st.sets(sids))
def test_so_does_a_stream_of_single_bytes(stream: bytes, claimed: set[int]) -> None:
    stock = Recorder()
    read(Parser(stock), [stream])
    parser, client, _ = lane_reader(sorted(claimed))
    read(parser, [stream[at : at + 1] for at in range(len(stream))])
    assert client.events == stock.events


def test_a_lane_hears_once_of_the_end_of_each_chunk_that_brought_it_something() -> None:
    parser, _, (one, other) = lane_reader([1, 2])
    frame, third = _msg(b"a", 1, None, b"x"), _msg(b"a", 3, None, b"x")
    read(parser, [frame * 3, third, frame[:-1], frame[-1:] + frame, b""])
    assert (one.ends, other.ends) == (2, 0)


def test_what_is_half_read_is_forgotten_with_its_connection() -> None:
    parser, client, _ = lane_reader([1])
    frame = _msg(b"a", 1, None, b"payload")
    read(parser, [frame[:-4]])
    parser.reset()
    read(parser, [b"PING\r\n" + frame])
    assert client.events == [("PING",), (1, b"a", b"", b"", b"payload")]


def test_an_unknown_protocol_line_is_an_error_as_in_the_library() -> None:
    for parser in (Parser(Recorder()), lane_reader([1])[0]):
        with pytest.raises(ProtocolError):
            read(parser, [b"NONSENSE\r\n"])


@pytest.mark.parametrize(
    "line",
    [
        *(b"MSG a 1 x", b"MSG a 1 -9", b"MSG 5", b"MSG ", b"MSG a x 0", b"MSG a 1", b"MSG a 1 b c 4"),
        *(b"HMSG a 1 9 4", b"HMSG a 1 -1 4", b"HMSG 4", b"HMSG a 1 x 4", b"HMSG 4 4", b"HMSG a 1 4"),
        b"INFO {\xae",
    ],
)
def test_a_line_that_no_server_writes_makes_the_client_connect_anew(line: bytes) -> None:
    """Which it does for a `ProtocolError`; for another error its reading ends, and for no error it never came back."""
    with pytest.raises(ProtocolError):
        read(lane_reader([])[0], [line + b"\r\nPING\r\n"])


def test_the_pinned_library_still_has_what_the_lanes_replace() -> None:
    assert version("nats-py").startswith("2.16.")
    client = Client()
    assert isinstance(client._ps, Parser)
    assert client._ps.nc is client
    assert inspect.iscoroutinefunction(Parser.parse)
    assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
    assert inspect.iscoroutinefunction(Client._process_msg)
    assert list(inspect.signature(Client._process_msg).parameters) == [
        *("self", "sid", "subject", "reply", "data", "headers")
    ]
    assert "_ps.parse(" in inspect.getsource(Client._read_loop)
    assert "_ps.reset(" in inspect.getsource(Client)
    assert "self._id" in inspect.getsource(Subscription.__init__)
    assert client._nuid.next().decode().isalnum()
    assert "max_reconnect_attempts" in inspect.getsource(Client.connect)


class Inbox:
    """A lane that keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, bytes, bytes]] = []
        self.ended = asyncio.Event()

    def accept(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.got.append((subject, headers, payload))

    def chunk_end(self) -> None:
        if len(self.got) >= 201:
            self.ended.set()


def test_a_lane_and_an_ordinary_subscription_share_a_real_connection(nats_server: NatsServer) -> None:
    nats_server.start()
    url = nats_server.environment()["NATS_URL"]

    async def talk() -> None:
        client = LaneClient()
        await client.connect(url)
        try:
            lane = Inbox()
            release = await client.claim("lanes.claimed", lane)
            ordinary = await client.subscribe("lanes.ordinary")
            for number in range(100):
                await client.publish("lanes.claimed", b"%d" % number * number)
                await client.publish("lanes.ordinary", b"%d" % number)
                await client.publish("lanes.claimed", b"", headers={"Nats-Msg-Id": f"m-{number}"})
            await client.publish("lanes.claimed", b"x" * 1_000_000)
            await asyncio.wait_for(lane.ended.wait(), 10)
            assert [payload for _, _, payload in lane.got[:-1:2]] == [b"%d" % n * n for n in range(100)]
            assert [headers for _, headers, _ in lane.got[1::2]] == [
                b"NATS/1.0\r\nNats-Msg-Id: m-%d\r\n\r\n" % number for number in range(100)
            ]
            assert lane.got[-1] == (b"lanes.claimed", b"", b"x" * 1_000_000)
            assert [(await ordinary.next_msg()).data for _ in range(100)] == [b"%d" % n for n in range(100)]
            await release()
            await client.publish("lanes.claimed", b"late")
            await client.flush()
            assert len(lane.got) == 201
        finally:
            await client.close()

    asyncio.run(talk())
