"""A clean stop: SIGTERM and Ctrl-C become a flag that sources look at, so that what was read is written first."""

import signal
import threading
from types import FrameType

import structlog

_log = structlog.get_logger(__name__)


class Shutdown:
    """Set once, by a signal or by a part that cannot go on."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether the process is to end."""
        return self._event.is_set()

    def request(self) -> None:
        """End the process after what was read is written."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past a request; true when one came."""
        return self._event.wait(seconds)

    def on_signals(self) -> None:
        """Take over SIGTERM and SIGINT. A second one ends the process at once. Main thread only."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.requested:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            _log.info("draining", signal=signal.Signals(number).name)
            self.request()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
