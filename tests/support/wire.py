"""A NATS client that sends any bytes: below the client library, which refuses what the server would take."""

import json
import socket
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from connectors.settings import Settings


class Wire:
    """A connection that publishes without acknowledgement, as a context manager; leaving it waits for the server."""

    _PINGED = b"PONG\r\n"

    def __init__(self, settings: Settings) -> None:
        self.published = 0
        url = urlsplit(settings.nats_servers()[0])
        self._socket = socket.create_connection((url.hostname or "", url.port or 4222), timeout=10)
        self._file = self._socket.makefile("rb")
        self._file.readline()  # INFO
        login = {"user": unquote(url.username or ""), "pass": unquote(url.password or "")}
        self._socket.sendall(b"CONNECT " + json.dumps({**login, "headers": True, "verbose": False}).encode() + b"\r\n")
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self._file.close()
            self._socket.close()

    def publish(self, subject: str | bytes, payload: bytes, headers: bytes = b"") -> None:
        """Send one message; `headers` is the whole block, `NATS/1.0` line and empty line included."""
        self.published += 1
        name = subject if isinstance(subject, bytes) else subject.encode()
        if headers:
            sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
            self._socket.sendall(b"HPUB " + name + b" " + sizes + b"\r\n" + headers + payload + b"\r\n")
        else:
            self._socket.sendall(b"PUB " + name + b" %d\r\n" % len(payload) + payload + b"\r\n")

    def flush(self) -> None:
        """Wait until the server has read everything.

        Raises:
            ConnectionError: it refused something.
        """
        self._socket.sendall(b"PING\r\n")
        while (line := self._file.readline()) != self._PINGED:
            if not line or line.startswith(b"-ERR"):
                raise ConnectionError(line.decode())

    def subscribe(self, subject: str) -> None:
        """Receive what is published on a subject from now on; `received` gives it."""
        self._socket.sendall(b"SUB " + subject.encode() + b" 1\r\n")
        self.flush()

    def received(self, count: int) -> list[tuple[str, bytes]]:
        """The next messages of the subscription: subject and payload.

        Raises:
            TimeoutError: they do not come within 10 s.
        """
        messages: list[tuple[str, bytes]] = []
        while len(messages) < count:
            words = self._file.readline().split()
            if words[0] == b"MSG":
                messages.append((words[1].decode(), self._file.read(int(words[-1]))))
                self._file.readline()
            elif words[0] == b"PING":
                self._socket.sendall(b"PONG\r\n")
        return messages
