"""A receiver of webhooks that records what it gets and answers as it is told."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import msgspec


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    at: float = field(default_factory=time.monotonic)
    answer: int | None = None

    @property
    def id(self) -> str:
        """Its `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def windows(self) -> list[dict[str, object]]:
        """Its windows."""
        return msgspec.json.decode(self.body, type=dict[str, list[dict[str, object]]])["windows"]


@dataclass
class Answer:
    """What to answer: a status with headers; None hangs until the receiver is closed, 0 cuts the connection."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Receiver:
    """An HTTP server on this machine, as a context manager.

    `answers` are given one after the other, the last for ever; `before` is called before each answer.
    """

    def __init__(self, *answers: Answer, before: Callable[[Received], None] | None = None) -> None:
        self.received: list[Received] = []
        self._answers = list(answers) or [Answer()]
        self._before = before
        self._closed = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver._take(self, Received({name.lower(): value for name, value in self.headers.items()}, body))

            def log_message(self, format: str, *args: object) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, with credentials that nobody should see."""
        return f"http://user:hunter2@127.0.0.1:{self._server.server_port}/windows"

    @property
    def windows(self) -> list[dict[str, object]]:
        """All windows received, in order."""
        return [window for one in self.received for window in one.windows]

    @property
    def taken(self) -> list[str]:
        """The `webhook-id`s that were answered 2xx, in order, each once."""
        return list(dict.fromkeys(one.id for one in self.received if one.answer and one.answer < 300))

    def then(self, *answers: Answer) -> None:
        """Answer so from now on."""
        with self._lock:
            self._answers = list(answers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, handler: BaseHTTPRequestHandler, received: Received) -> None:
        with self._lock:
            answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
            received = replace(received, answer=answer.status)
            self.received.append(received)
        if self._before is not None:
            self._before(received)
        if answer.status is None:
            self._closed.wait()
            return
        if not answer.status:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)
