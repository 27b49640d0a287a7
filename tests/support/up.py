"""`slate up` as a user runs it, in a directory of its own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from connectors.settings import Settings
from deploy.processes import kill_tree, spawn, variables
from tests.support.processes import alive
from tests.support.stack import connect
from tests.support.waiting import eventually


class Up:
    """`slate up OPTIONS` in `directory`, its output in a file, as a context manager that leaves nothing behind.

    Args:
        directory: working directory; `.slate` will be in it.
        options: of `slate up`.
        command: or of another command that runs the stack.
        environment: variables beside PATH.
        uid: run as this user.
        traverse: with `uid`, keep the right to pass through closed directories.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        command: str = "up",
        environment: dict[str, str] | None = None,
        uid: int | None = None,
        traverse: bool = False,
    ) -> None:
        self.directory = directory
        self._output = directory / "output.log"
        self._output.unlink(missing_ok=True)
        self._command = [sys.executable, "-m", "deploy.cli", command, *options]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(environment or {}),
        }
        self._uid, self._traverse = uid, traverse
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.process = spawn(
            self._command,
            log=self._output,
            environment=self._environment,
            directory=self.directory,
            uid=self._uid,
            traverse=self._traverse,
        )
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            logs = "".join(f"\n== {one}\n{one.read_text()[-3000:]}" for one in self.directory.glob(".slate/log/*.log"))
            error.add_note(f"slate up said:\n{self.output}{logs}")
        assert self.process is not None
        kill_tree(self.process)

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    def says(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has printed this."""
        assert self.process is not None
        process = self.process
        eventually(
            lambda: text in self.output or process.poll() is not None, timeout=timeout, what=f"slate up says {text!r}"
        )
        assert text in self.output

    def send(self, number: signal.Signals) -> None:
        """Send a signal to `slate up` itself, and to nothing else."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end and return the exit code."""
        assert self.process is not None
        return self.process.wait(timeout)

    def settings(self) -> Settings:
        """Return what another terminal's commands use now: `.slate/env`."""
        lines = (self.directory / ".slate" / "env").read_text().splitlines()
        values = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        return Settings.load(local=False, **{name: values[one] for name, one in variables().items() if one in values})

    def stored(self) -> int:
        """Return how many messages became rows, by the ledger."""
        with connect(self.settings()) as connection:
            row = connection.execute("SELECT coalesce(sum(stored), 0) FROM slate.ledger").fetchone()
        assert row is not None
        return int(row[0])

    def pid_of(self, text: str) -> int:
        """Return the process whose command line holds `text`."""
        found = [pid for pid in running_below(self.directory) if text in _command_line(pid)]
        assert found, f"nothing with {text} runs"
        return min(found)


def running_below(directory: Path) -> list[int]:
    """Return other processes that run in this directory or name it in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        with suppress(OSError):
            # a server of another user hides its directory from a root without all capabilities
            if str(directory) in _command_line(pid) and alive(pid):
                found.append(pid)
                continue
            if (entry / "cwd").readlink().is_relative_to(directory) and alive(pid):
                found.append(pid)
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
