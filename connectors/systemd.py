"""Tells systemd how the process is (sd_notify(3)): ready, alive, stopping, and a line for `systemctl status`."""

import atexit
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import structlog

from connectors.environment import Supervisor, supervisor
from connectors.health import Health

_LOOK_S: Final = 1.0
_STATUS_S: Final = 5.0
_STARTING_S: Final = 60
"""How much longer a process may take to begin, seconds, told again and again while it is alive."""

_log = structlog.get_logger(__name__)


class Reporter(threading.Thread):
    """Looks after the health of the process, logs when a part hangs, and tells systemd where that has started it.

    systemd is told `READY=1` once it is ready for the first time, `WATCHDOG=1` at half of what the unit sets and only
    while no part hangs, `STOPPING=1` when it begins to end; from then on `TimeoutStopSec` limits it.

    Args:
        health: to look at.
        status: a line for `systemctl status`, of a process that is ready.
        stopping: whether it ends.
        to: who started it; found out from the environment unless given.
    """

    def __init__(
        self,
        health: Health,
        status: Callable[[], str],
        stopping: Callable[[], bool],
        to: Supervisor | None = None,
    ) -> None:
        super().__init__(name="health", daemon=True)
        self._health = health
        self._status = status
        self._stopping = stopping
        self._to = supervisor() if to is None else to
        self._ended = threading.Event()
        self._pause = min(_LOOK_S, self._to.watchdog_s / 4) if self._to.watchdog_s else _LOOK_S
        self._pinged = self._told_at = float("-inf")
        self._told = ""
        self._well = True
        self._begun = self._ending = False

    def end(self) -> None:
        """Stop looking: the process ends."""
        self._ended.set()
        self.join(5)
        if not self._ending:
            self._ending = True
            self._send(["STOPPING=1"])

    def run(self) -> None:
        """Look, once a second or as often as the watchdog asks for."""
        atexit.register(self.end)
        while True:
            try:
                self._look()
            except Exception:  # noqa: BLE001 - without it systemd would end a process that is well
                _log.exception("health is not reported: this is a fault of the program")
            if self._ended.wait(self._pause):
                return

    def _look(self) -> None:
        now = monotonic()
        live = self._health.live()
        if live.ok != self._well:
            self._well = live.ok
            if live.ok:
                _log.warning("it moves again")
            else:
                _log.error("it hangs", problems=live.problems, stacks=self._health.stacks())
        lines = []
        if self._stopping():
            if not self._ending:
                lines += ["STOPPING=1", "STATUS=stopping: what was read is written first"]
                self._ending = True
        else:
            lines += self._tell(now)
        if self._to.watchdog_s and (live.ok or self._ending) and now - self._pinged >= self._to.watchdog_s / 2:
            lines.append("WATCHDOG=1")
            self._pinged = now
        self._send(lines)

    def _tell(self, now: float) -> list[str]:
        ready = self._health.ready()
        lines = []
        if ready.ok and not self._begun:
            self._begun = True
            lines.append("READY=1")
        due = now - self._told_at >= _STATUS_S
        if not self._begun and self._well and due:
            lines.append(f"EXTEND_TIMEOUT_USEC={_STARTING_S * 1_000_000}")
        if due or lines:
            self._told_at = now
            lines.append("STATUS=" + (self._status() if ready.ok else "waits: " + "; ".join(ready.problems)[:300]))
        return lines

    def _send(self, lines: list[str]) -> None:
        """What systemd does not take now is dropped: it is told again."""
        address = self._to.address
        if lines and address is not None:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.settimeout(1.0)
                to.sendto("\n".join(lines).encode(), f"\0{address[1:]}" if address.startswith("@") else address)
