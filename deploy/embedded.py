"""What the servers of `deploy.servers` have in common: a process, a port, a directory and a log."""

import os
import random
import re
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import ClassVar

from connectors.errors import ConnectionFailedError
from deploy.processes import kill_tree, signal_tree, spawn, tail, tree

HOST = "127.0.0.1"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # as servers do, so that connections of an earlier one in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def free_port() -> int:
    """Return a free port outside the range that the kernel takes for outgoing connections.

    Inside it, a client that keeps trying a stopped server's port may be given that very port as its own,
    connect to itself and keep the server from coming back.
    """
    first = 32768
    with suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(200):
        port = random.SystemRandom().randrange(10_000, max(first, 10_100))
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server(ABC):
    """One server: its process, its port and its directory.

    Args:
        directory: holds data, configuration and log; made where it is missing, mode 0700.
        port: 0 chooses a free one; the object keeps it over restarts.
        log: its output, appended; `server.log` in the directory if not given.
    """

    name: ClassVar[str]
    deadline_s: ClassVar[float] = 30.0
    """How long it may take to answer, recovery after a crash included."""
    _stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    _death_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, directory: Path, *, port: int = 0, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self.log = log.absolute() if log is not None else self.directory / "server.log"
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._waker: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its main process lives; a paused server counts as running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of its main process, None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended, None while it runs or before the first start; -9 is SIGKILL."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it answers as itself; nothing happens when it runs.

        Call it from a thread that lives as long as the server should.

        Raises:
            ConnectionFailedError: it did not come up; the message has the end of its log.
        """
        if self.running:
            return
        self.resume()  # one that died while it was paused
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prepare()
        deadline = monotonic() + self.deadline_s
        while not self._try_start(deadline):
            pass

    def _try_start(self, deadline: float) -> bool:
        begin = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = self._spawn()
        answered = False
        try:
            while not answered and process.poll() is None and monotonic() < deadline:
                answered = self._answers()
                if not answered:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.02)
        finally:
            if not answered:
                kill_tree(process)
        if answered and self.running:
            return True
        if self._may_try_again(begin) and monotonic() < deadline:
            return False
        raise ConnectionFailedError(
            f"{self.name} did not start on {HOST}:{self.port} (exit code {process.returncode}). "
            f"{self.log} ends with:\n{tail(self.log, since=begin)}"
        )

    def stop(self, timeout: float = 30.0) -> None:
        """Stop it as its makers advise, and with SIGKILL after `timeout` seconds."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.resume()
        process.send_signal(self._stop_signal)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            kill_tree(process)

    def kill(self) -> None:
        """SIGKILL all its processes, and wait until they are gone."""
        if self._process is not None:
            kill_tree(self._process)
        self.resume()

    def pause(self) -> None:
        """SIGSTOP all its processes: connections stay open, nobody answers. If we die meanwhile they go on, and end."""
        if self.pid is not None and self._waker is None:
            signal_tree(self.pid, signal.SIGSTOP)
            # What is stopped hears no signal but SIGKILL, not even that of its parent's death: a shell that reads from
            # us wakes it when our end of the pipe is gone.
            self._waker = subprocess.Popen(  # noqa: S603 - numbers of processes
                ["/bin/sh", "-c", 'read -r _; kill -CONT "$@"', "waker", *map(str, tree(self.pid))],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def resume(self) -> None:
        """End a pause."""
        if self._waker is not None:
            self._waker.communicate()
            self._waker = None

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables of the wire contract that point to this server; they hold its password."""

    @property
    @abstractmethod
    def program(self) -> Path:
        """The server's binary."""

    @cached_property
    def version(self) -> str:
        """The binary's version, such as 18.6."""
        answer = subprocess.run(  # noqa: S603  # our own package's program
            [self.program, "--version"], capture_output=True, text=True, check=True, env=plain_environment()
        ).stdout
        found = re.search(r"\d+(\.\d+)+", answer)
        return found.group() if found else answer.strip()

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _prepare(self) -> None: ...

    def _may_try_again(self, log_begin: int) -> bool:
        return False

    def _spawn(self) -> subprocess.Popen[bytes]:
        return spawn(
            self._command(),
            log=self.log,
            environment=plain_environment(),
            directory=self.directory,
            death_signal=self._death_signal,
        )

    def _write(self, name: str, text: str) -> Path:
        """Write a file that only we can read."""
        path = self.directory / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
        return path


def plain_environment() -> dict[str, str]:
    """Return an environment with nothing of the user's: PGPORT and the like would change a server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
