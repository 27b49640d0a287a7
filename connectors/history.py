"""Which history of the database a process has read from.

A failover to a replica, and a restore, begin another one (PostgreSQL: a timeline). It may lack the last transactions of
the one before, and decide what they decided otherwise: of two messages with one id, the other may be stored first.
"""

import threading

from connectors import metrics
from connectors.errors import FencedError


class History:
    """The timeline that this process has read from; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.timeline: str | None = None
        """None before anything was read."""

    def read_from(self, timeline: str) -> None:
        """Something was read.

        Raises:
            FencedError: what was read before was of another history.
        """
        with self._lock:
            if self.timeline is None:
                self.timeline = timeline
                metrics.TIMELINE.set(int(timeline, 16))
            if self.timeline != timeline:
                raise FencedError(
                    f"the database goes on with another history (timeline {timeline}, before {self.timeline}): a "
                    "failover, or a restore. What was read and not counted may differ: this worker stops, and goes on "
                    "from what the database says when it is started again"
                )
