"""A socket in place of systemd's: what a process tells it, and when."""

import socket
import threading
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from tests.support.waiting import eventually


class Told:
    """Listens at a path, or an abstract address (`@name`), as a context manager.

    `lines` are the assignments so far; `times` is when `WATCHDOG=1` came, seconds of the monotonic clock.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.lines: list[str] = []
        self.times: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(5)
        self._socket.close()

    def forget(self) -> None:
        """Begin with an empty list."""
        self.lines, self.times = [], []

    def wait_for(self, line: str, timeout: float = 10.0, *, times: int = 1) -> None:
        """Wait until it was told so often.

        Raises:
            AssertionError: it was not.
        """
        eventually(lambda: self.lines.count(line) >= times, timeout, what=f"{line} {times} times")

    def comes(self, line: str, seconds: float) -> bool:
        """Whether it is told within that time; used to see that something is not told."""
        try:
            self.wait_for(line, seconds, times=self.lines.count(line) + 1)
        except AssertionError:
            return False
        return True

    def _listen(self) -> None:
        while data := self._socket.recv(65_536):
            lines = data.decode().splitlines()
            self.lines += lines
            self.times += [monotonic()] * lines.count("WATCHDOG=1")
