"""The time of the database, as a process knows it.

Carried on by the monotonic clock between two looks, so that nothing hangs on the process's own clock, which may be
wrong, differ from that of another host, or jump.
"""

import time


class ServerClock:
    """Set by whoever asks the database; safe for threads."""

    def __init__(self) -> None:
        self._ahead_ns: int | None = None

    def set(self, now_us: int) -> None:
        """The database says that it is so late, microseconds since 1970."""
        self._ahead_ns = now_us * 1000 - time.monotonic_ns()

    @property
    def now_us(self) -> int | None:
        """How late it is, microseconds since 1970; None before the database was asked."""
        return None if self._ahead_ns is None else (self._ahead_ns + time.monotonic_ns()) // 1000
