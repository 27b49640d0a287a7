"""A process that puts events and is killed: `python -m tests.support.outbox_process <directory> <first> <count>`.

Puts the events numbered `first` to `first + count - 1`, in turn for each of eight sessions, and prints
`accepted <id>` for each as soon as `put` has returned. Then it prints `done` and waits to be killed; with a count of 0
it sends what others have left instead, prints `sent` and ends.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.logs import configure
from connectors.outbox import Outbox
from connectors.settings import Settings
from deploy.processes import environment_of, kill_tree, spawn, tail

SESSIONS = 8
_ROOT = Path(__file__).parents[2]


class OutboxProcess:
    """This module as a process, in a context manager that kills it at the end."""

    def __init__(self, settings: Settings, directory: Path, first: int, count: int) -> None:
        self.log = Path.cwd() / f"process-{first}-{count}.log"
        self._process = spawn(
            [sys.executable, "-m", "tests.support.outbox_process", str(directory), str(first), str(count)],
            log=self.log,
            environment={**environment_of(settings), "PYTHONPATH": str(_ROOT)},
            directory=Path.cwd(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def accepted(self) -> list[str]:
        """The ids of the events that it says were accepted."""
        return [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith("accepted ")]

    def kill(self) -> None:
        """SIGKILL."""
        kill_tree(self._process)

    def wait(self) -> None:
        """Wait for its end, which must be a good one."""
        try:
            assert self._process.wait(90) == 0, tail(self.log)
        except subprocess.TimeoutExpired:
            raise AssertionError(tail(self.log)) from None


def say(line: str) -> None:
    """Write a line at once, so that it outlives a kill."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run(directory: Path, first: int, count: int) -> None:
    async with await Outbox.open(Settings.load(local=False), directory) as outbox:
        for number in range(first, first + count):
            payload = b'{"kind":"k","data":{"number":%d}}' % number
            await outbox.put(f"spark.telemetry.s{number % SESSIONS}", payload, msg_id=f"e{number}")
            say(f"accepted e{number}")
        if count:
            say("done")
            await asyncio.Event().wait()
        await outbox.flush(60)
        say("sent")


if __name__ == "__main__":
    configure(Settings.load(local=False))
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
