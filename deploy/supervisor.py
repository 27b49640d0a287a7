"""Keeps the parts of a stack running: starts them in order, brings back what crashed, stops them in order."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Protocol, Self

from connectors.errors import SlateError
from deploy.processes import kill_tree, spawn

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
STEADY_S = 30.0
"""Who has run this long counts as healthy: the next crash is followed by the first pause again."""


class Part(Protocol):
    """A server or a program; `deploy.embedded.Server` is one."""

    port: int
    log: Path

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def running(self) -> bool: ...  # noqa: D102
    @property
    def pid(self) -> int | None: ...  # noqa: D102
    @property
    def exit_code(self) -> int | None: ...  # noqa: D102

    def start(self) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102


class Program:
    """A command of this project as a child process; SIGTERM asks it to finish.

    Args:
        name: what people call it; also its log's name.
        command: program and arguments, no secrets.
        environment: all of its environment.
        log: its output, appended.
        port: what it listens on, 0 for nothing.
        endless: that it should never end by itself, not even with exit code 0.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        port: int = 0,
        endless: bool = True,
    ) -> None:
        self.port = port
        self.log = log
        self.endless = endless
        self._command = command
        self._environment = environment
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self._name

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended; -9 is SIGKILL."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start it; it may need a while until it works."""
        if not self.running:
            self._process = spawn(self._command, log=self.log, environment=self._environment)

    def stop(self, timeout: float = 30.0) -> None:
        """Let it finish what it has in hand, and kill it after `timeout` seconds."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it and everything below it."""
        if self._process is not None:
            kill_tree(self._process)


@dataclass
class Supervised:
    """A part and what has happened to it."""

    part: Part
    restarts: int = 0
    finished: bool = False
    """It ended as it should, and stays away."""
    next_start: float | None = None
    """When it will be started again, None while it runs."""
    _pause: float = FIRST_PAUSE_S
    _started: float = 0.0

    @property
    def state(self) -> str:
        """One word for people."""
        if self.part.running:
            return "running"
        return "finished" if self.finished else "down"

    def started(self, now: float) -> None:
        """Note a start that worked."""
        self.next_start, self._started = None, now

    def crashed(self, now: float) -> float:
        """Note a crash or a start that failed; gives the seconds until the next try."""
        if self._started and now - self._started >= STEADY_S:
            self._pause = FIRST_PAUSE_S
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_S)
        self._started = 0.0
        self.next_start = now + pause
        return pause


class Supervisor:
    """Parts in the order in which they start; they stop in the opposite one.

    Use it from the main thread only: children end with the thread that started them.
    """

    def __init__(self) -> None:
        self.parts: list[Supervised] = []

    def start(self, part: Part) -> None:
        """Start a part and keep it running from now on.

        Raises:
            SlateError: it did not start.
        """
        supervised = Supervised(part)
        self.parts.append(supervised)
        part.start()
        supervised.started(monotonic())

    def step(self) -> Iterator[str]:
        """Look after all parts once: say who ended, and start again whose pause is over."""
        for one in self.parts:
            if one.part.running or one.finished:
                continue
            now = monotonic()
            if one.next_start is None:
                yield self._note_end(one, now)
            elif now >= one.next_start:
                yield self._restart(one)

    def _note_end(self, one: Supervised, now: float) -> str:
        code = one.part.exit_code
        if isinstance(one.part, Program) and not one.part.endless and code == 0:
            one.finished = True
            return f"{one.part.name} has finished"
        pause = one.crashed(now)
        return f"{one.part.name} ended {_how(code)}; starting it again in {pause:g} s (see {one.part.log})"

    def _restart(self, one: Supervised) -> str:
        one.restarts += 1
        try:
            one.part.start()
        except SlateError as error:
            pause = one.crashed(monotonic())
            return f"{str(error).splitlines()[0]} Trying again in {pause:g} s"
        one.started(monotonic())
        return f"{one.part.name} runs again, pid {one.part.pid}"

    def to_stop(self) -> list[Part]:
        """Return the parts that run, the last started first."""
        return [one.part for one in reversed(self.parts) if one.part.running]

    def kill(self) -> None:
        """SIGKILL whatever still runs."""
        for one in reversed(self.parts):
            one.part.kill()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"


class Interrupted(BaseException):
    """The user or the system wants us to stop; like KeyboardInterrupt, no error."""


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP while the stack runs, as a context manager.

    Outside `deferred` they raise `Interrupted` wherever the main thread is; inside, they end `wait`.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _ECHO_S = 1.0
    """Several senders may mean one wish: the terminal, make, timeout."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._last = float("-inf")
        self._reader, self._writer = -1, -1

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = {one: signal.signal(one, self._handle) for one in self._SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for one, handler in self._before.items():
            signal.signal(one, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now = monotonic()
        echo, self._last = now - self._last < self._ECHO_S, now
        self.requested = True
        if not self._deferred and not echo:
            raise Interrupted

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal meanwhile, so that what is under way is finished."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def wait(self, seconds: float) -> bool:
        """Wait until a signal comes or the time is over; whether one has come."""
        if not self.requested:
            select.select([self._reader], [], [], seconds)
        return self.requested
