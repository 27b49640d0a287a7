"""The fast lane into the NATS client: however a stream is cut, the same messages as from the library's parser.

The first byte says how long the pieces are in which the stream arrives.
"""

import json
from typing import Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from connectors.lanes import LaneParser
from tests.fuzz.target import Target, finish, in_time
from tests.unit.test_lanes import Event, Recorder, lane_reader

_HEADERS: Final = b"NATS/1.0\r\nNats-Msg-Id: a\r\n\r\n"


def check(data: bytes) -> None:
    """A stream as the server writes it gives the same as in the library; any other ends in `ProtocolError` at most."""
    size, stream = (1 + data[0] % 64, data[1:]) if data else (1, b"")
    parser, client, _ = lane_reader([1, 2])
    with in_time():
        _read(parser, [stream[at : at + size] for at in range(0, len(stream), size)])
    stock = Recorder()
    _read(Parser(stock), [stream])
    written = b"".join(map(_written, stock.events))
    if stream.startswith(written) and b"\r\n" not in stream[len(written) :]:
        assert client.events == stock.events, "the library reads it otherwise"


def _read(parser: Parser, chunks: list[bytes]) -> None:
    """Read it as far as it can be; what else INFO and -ERR may end in is the library's own."""

    async def feed() -> None:
        for chunk in chunks:
            await parser.parse(chunk)

    try:
        finish(feed())
    except ProtocolError:
        pass
    except (AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and isinstance(parser, LaneParser):
            raise


def _written(event: Event) -> bytes:
    """What the server writes for it."""
    match event:
        case ("INFO", info):
            return b"INFO " + json.dumps(info).encode() + b"\r\n"
        case ("ERR", text):
            return f"-ERR {text}\r\n".encode()
        case (str() as name,):
            return f"{name}\r\n".encode()
        case (int(sid), bytes(subject), bytes(reply), bytes(headers), bytes(body)):
            told = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid, *([reply] if reply else [])]
            sizes = [b"%d" % len(headers), b"%d" % len(headers + body)] if headers else [b"%d" % len(body)]
            return b" ".join([*told, *sizes]) + b"\r\n" + headers + body + b"\r\n"
    raise AssertionError(event)


def seeds() -> list[bytes]:
    """Streams of a few lines."""
    message, lane = b"MSG a 3 2\r\nhi\r\n", b"MSG a.b 1 reply 12\r\nMSG a 1 2\r\nh\r\n"
    headed = b"HMSG a 2 %d %d\r\n%shi\r\n" % (len(_HEADERS), len(_HEADERS) + 2, _HEADERS)
    control = b"PING\r\nPONG\r\n-ERR 'slow consumer'\r\nINFO {}\r\n"
    return [
        bytes([size]) + part * 3 for size in (0, 6, 63) for part in (message, lane, headed, control, headed + control)
    ]


def words() -> list[bytes]:
    """Pieces of the protocol."""
    return [
        b"MSG ",
        b"HMSG ",
        b" 1 ",
        b" 2 ",
        b"\r\n",
        b"PING\r\n",
        b"-1",
        b"+2",
        b"1_0",
        b"99999999",
        b"\t",
        b"INFO {}",
        _HEADERS,
    ]


TARGET: Final = Target("wire", check, seeds, words)
