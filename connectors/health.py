"""Whether a process works, waits or hangs, and whether it has begun.

A part of it (a thread, or a task of a loop) says that it moved. One that waits for something which takes as long as it
takes, such as the next message, rests; who tries again and again moves. A part that neither moved nor rests hangs, and
only to start the process anew helps. What is away but waited for keeps a process from being ready, never from being
alive: to start it anew would not help.
"""

import sys
import traceback
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Final, NamedTuple

from connectors.settings import Settings

LIVE: Final = "/health/live"
READY: Final = "/health/ready"
PATIENCE: Final = 3
"""For how many statements of the longest kind a writer waits for an answer of PostgreSQL (`connectors.link`)."""
_WORK_S: Final = 30.0


def longest_silence_s(settings: Settings) -> float:
    """How long a part that is well may be silent, seconds: as long as a writer waits for an answer of PostgreSQL, and
    half a minute to connect and to work.
    """
    return PATIENCE * settings.db_statement_timeout_s + _WORK_S


class Report(NamedTuple):
    """What a probe is told: whether all is well, and if not, what is wrong."""

    ok: bool
    problems: list[str]


class Health:
    """How the parts of a process are. `beat` and `rest` are called by the parts, the others by any thread.

    Args:
        silence_s: how long a part may be silent, seconds; see `longest_silence_s`.
    """

    def __init__(self, silence_s: float = 120.0) -> None:
        self.silence_s = silence_s
        self._moved: dict[tuple[str, int], float] = {}
        self._needs: list[Callable[[], str | None]] = []
        self._complaints: dict[str, str] = {}

    def beat(self, part: str) -> None:
        """A part of the calling thread moved."""
        self._moved[part, get_ident()] = monotonic()

    def rest(self, part: str) -> None:
        """A part of the calling thread waits, for as long as it takes, or has ended."""
        self._moved.pop((part, get_ident()), None)

    def need(self, missing: Callable[[], str | None]) -> None:
        """Be ready only while this gives None; otherwise it says what is missing. It must not wait."""
        self._needs.append(missing)

    def complain(self, of: str, what: str) -> None:
        """Something that is needed is away, and waited for. No secrets: whoever may scrape metrics can read it."""
        self._complaints[of] = what

    def recover(self, of: str) -> None:
        """It is there again."""
        self._complaints.pop(of, None)

    def live(self) -> Report:
        """Whether no part hangs."""
        problems = [
            f"{part} has not moved for {silent:.0f} s, which should take {self.silence_s:.0f} s at most"
            for part, _, silent in self._hanging()
        ]
        return Report(not problems, problems)

    def ready(self) -> Report:
        """Whether it has begun, has what it needs, and does not hang."""
        problems = [missing for need in self._needs if (missing := need()) is not None]
        if not self._needs:
            problems.append("it has not begun")
        problems += [f"{of}: {what}" for of, what in self._complaints.copy().items()]
        problems += self.live().problems
        return Report(not problems, list(dict.fromkeys(problems)))

    def stacks(self) -> str:
        """Where the threads of parts that hang are; without values."""
        frames = sys._current_frames()
        return "\n".join(
            f"{part}:\n{''.join(traceback.format_stack(frames[thread]))}"
            for part, thread, _ in self._hanging()
            if thread in frames
        )

    def _hanging(self) -> list[tuple[str, int, float]]:
        moved, now = self._moved.copy(), monotonic()
        return [(part, thread, now - at) for (part, thread), at in moved.items() if now - at > self.silence_s]


HEALTH: Final = Health()
"""That of this process, as `prometheus_client.REGISTRY` has its metrics."""
