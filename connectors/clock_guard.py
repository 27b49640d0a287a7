"""Ends the process when its clock is put back: Bytewax waits for a time of the day, and would until it comes again.

A killed worker loses nothing (ADR 1), and whoever keeps it running starts it again.
"""

import os
import threading
import time
from typing import Final

import structlog

PUT_BACK_S: Final = 5.0
"""How far back is noticed; a worker stands still for less, which does no harm."""
EXIT_CODE: Final = 75  # EX_TEMPFAIL of sysexits.h
_LOOK_S: Final = 1.0

_log = structlog.get_logger(__name__)


def guard_clock() -> None:
    """Look from now on, on a thread of its own."""
    threading.Thread(target=_guard, name="clock", daemon=True).start()


def _guard() -> None:
    pause = threading.Event()
    latest = time.time() - time.monotonic()
    while True:
        pause.wait(_LOOK_S)
        now = time.time() - time.monotonic()
        if latest - now > PUT_BACK_S:
            _log.error("the clock was put back: stopping, to be started again", seconds=round(latest - now))
            os._exit(EXIT_CODE)
        latest = max(latest, now)
