"""A dataflow as a user runs it: `python -m bytewax.run`, in a process of its own."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.processes import environment_of, kill_tree, signal_tree, spawn, tail
from tests.support.roles import acting


class Worker:
    """`python -m bytewax.run flows.ingest` with the environment of `settings`, as a context manager.

    It runs in `directory` (the current one), logs to `worker-<n>.log` there and serves metrics on
    `metrics_port` of the address that settings name. Leaving the context kills what still runs; `kill` and `start` may
    follow each other.

    Args:
        settings: become its environment.
        arguments: after the flow's name, such as `"-w", "2"`.
        flow: module of the dataflow.
        directory: working directory.
        environment: more variables, or others.
        prefix: a command that becomes it, with its arguments.
    """

    _count = 0

    def __init__(
        self,
        settings: Settings,
        *arguments: str,
        flow: str = "flows.ingest",
        directory: Path | None = None,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        Worker._count += 1
        settings = acting(settings, "worker")
        self.metrics_port = settings.metrics_port or free_port()
        self._metrics_host = settings.metrics_host
        self._command = [*prefix, sys.executable, "-m", "bytewax.run", flow, *arguments]
        self._directory = directory or Path.cwd()
        self.log = self._directory / f"worker-{Worker._count}.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "default",
            **environment_of(settings.model_copy(update={"metrics_port": self.metrics_port})),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            error.add_note(f"{self.log} ends with:\n{self.tail()}")

    def start(self) -> None:
        """Start it; it need not have run before."""
        assert not self.running, "the worker runs already"
        self._process = spawn(self._command, log=self.log, environment=self._environment, directory=self._directory)

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        assert self._process is not None, "the worker was never started"
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM, after which it should drain and exit 0."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process is not None:
            kill_tree(self._process)

    def pause(self) -> None:
        """SIGSTOP."""
        signal_tree(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        signal_tree(self.pid, signal.SIGCONT)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end and return the exit code; -9 is SIGKILL.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        assert self._process is not None, "the worker was never started"
        return self._process.wait(timeout)

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of its log."""
        return tail(self.log, lines)

    def resident_bytes(self) -> int:
        """Return its resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def metrics(self) -> dict[str, float]:
        """Return what its metrics endpoint says, by sample: `name{label=value,...}`, labels sorted.

        Raises:
            OSError: the endpoint does not answer (yet).
        """
        with urllib.request.urlopen(f"http://{self._metrics_host}:{self.metrics_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                samples[sample.name + (f"{{{labels}}}" if labels else "")] = float(sample.value)
        return samples
