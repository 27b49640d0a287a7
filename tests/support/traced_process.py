"""A process that puts events within a trace and is killed.

`python -m tests.support.traced_process <directory> <count>` prints `put` when all are accepted, and waits.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.outbox import Outbox
from connectors.settings import Settings
from connectors.tracing import start
from deploy.processes import environment_of, kill_tree, spawn
from tests.support.outbox_process import say

_ROOT = Path(__file__).parents[2]


class TracedProcess:
    """This module as a process, in a context manager that kills it at the end."""

    def __init__(self, settings: Settings, directory: Path, count: int) -> None:
        self.log = Path.cwd() / "traced.log"
        self._process: subprocess.Popen[bytes] = spawn(
            [sys.executable, "-m", "tests.support.traced_process", str(directory), str(count)],
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

    def has_put(self) -> bool:
        return "put" in self.log.read_text().splitlines()

    def kill(self) -> None:
        """SIGKILL."""
        kill_tree(self._process)


async def run(directory: Path, count: int) -> None:
    settings = Settings.load(local=False)
    tracing = start(settings, "killed")
    outbox = await Outbox.open(settings, directory, tracing=tracing)
    with tracing.begin("user input", {}):
        for number in range(count):
            payload = b'{"kind":"k","data":{"number":%d}}' % number
            await outbox.put("spark.telemetry.s", payload, msg_id=f"e{number}")
    say("put")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
