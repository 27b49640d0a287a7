"""The HTTP service as a user runs it: `python -m realtime.api`, in a process of its own; and a site to look at."""

import asyncio
import os
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psycopg
from pydantic import SecretStr

from connectors.frames import FileFrames
from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.processes import environment_of, kill_tree, spawn, tail
from realtime.simulator import Plan, events
from tests.support.roles import acting
from tests.support.rollups import counted
from tests.support.sessions import JWT_SECRET
from tests.support.stack import Stack, connect
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

_ROOT = Path(__file__).parents[2]
SESSION = "watched-session"
PROMPT = "Make <img src=x onerror=alert(1)> jump & land"
CODE = 'using UnityEngine;\n\npublic class Jump : MonoBehaviour\n{\n    string tag = "<b>&amp;</b>"; // <script>\n}\n'
MESSAGES = 1500


class Api:
    """The service with the environment of `settings`, as a context manager: entered once `/health` answers.

    It has the same address whenever it is started, and logs to `api.log` in `directory` (the current one).
    """

    def __init__(self, settings: Settings, directory: Path | None = None) -> None:
        self._port = free_port()
        self._settings = acting(settings, "service").model_copy(
            update={"api_host": "127.0.0.1", "api_port": self._port}
        )
        self._directory = directory or Path.cwd()
        self._log = self._directory / "api.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            error.add_note(f"{self._log} ends with:\n{tail(self._log, 40)}")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_ROOT),
            "PYTHONWARNINGS": "default",
            **environment_of(self._settings),
        }
        self._process = process = spawn(
            [sys.executable, "-m", "realtime.api"], log=self._log, environment=environment, directory=self._directory
        )
        eventually(lambda: self._answers() or process.poll() is not None, 30, what="/health answers")
        assert process.poll() is None, tail(self._log, 40)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process is not None:
            kill_tree(self._process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return int(answer.status) == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


class Site:
    """The service, and the database and stream behind it."""

    def __init__(self, api: Api, settings: Settings, database: psycopg.Connection) -> None:
        self.api = api
        self.settings = settings
        self.database = database

    def publish(self, *messages: tuple[str, dict[str, Any]]) -> None:
        """Publish events of `SESSION` as they happen now."""

        async def run() -> None:
            async with await Publisher.connect(acting(self.settings, "publisher"), name="test-page") as publisher:
                for subject, fields in messages:
                    body = {"sessionId": SESSION, "timestamp": int(time.time() * 1000), **fields}
                    await publisher.publish(f"{subject}.{SESSION}", msgspec.json.encode(body))

        asyncio.run(run())

    def one(self, query: str) -> Any:
        """The first row."""
        return self.database.execute(query.encode()).fetchone()


def png(side: int = 96) -> bytes:
    """A picture: a gradient."""
    rows = b"".join(b"\0" + bytes(byte for x in range(side) for byte in (2 * x, 2 * y, 160)) for y in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def story(frame: str) -> list[tuple[str, dict[str, Any]]]:
    """One of everything that a timeline shows."""
    return [
        ("spark.session.connected", {"type": "connected", "model": "gpt-realtime", "mode": "creative"}),
        ("spark.delta", {"type": "delta", "delta": {"text": "I write a script."}}),
        (
            "spark.function_call",
            {
                "callId": "c1",
                "name": "generate_unity_script",
                "status": "success",
                "durationMs": 1240,
                "args": {"name": "Jump"},
                "output": {"path": "Assets/Jump.cs"},
            },
        ),
        (
            "spark.function_call",
            {"callId": "c2", "name": "apply_patch", "status": "failed", "durationMs": 80, "error": "hunk 2 fails"},
        ),
        (
            "spark.runtime.unity.script_generated",
            {"type": "script_generated", "scriptName": "Jump", "scriptContent": CODE, "prompt": PROMPT},
        ),
        ("spark.preview.unity.completed", {"engine": "unity", "status": "ready", "frameRef": frame}),
        (
            "spark.build.unity.started",
            {"type": "build_started", "jobId": "job-7", "target": "webgl", "status": "queued"},
        ),
        (
            "spark.usage",
            {"model": "gpt-realtime", "tokensPrompt": 900, "tokensCompletion": 100, "costEstimate": 0.0123},
        ),
    ]


@contextmanager
def running(stack: Stack, directory: Path) -> Iterator[Site]:
    """A site with sessions of the last minutes, and `SESSION`, all stored and counted."""
    frames = FileFrames(directory / "frames")
    frame = asyncio.run(frames.put(png()))
    more: dict[str, Any] = {
        "jwt_secret": SecretStr(JWT_SECRET),
        "frames_url": frames.directory.as_uri(),
        "api_limit": 0,
    }
    with stack.provide(**more) as settings, connect(settings) as database:
        start = datetime.now(UTC) - timedelta(minutes=12)
        plan = Plan(start=start, rate=2.2, messages=MESSAGES, sessions=6, invalid=0.005)
        with (
            Worker(settings, directory=directory),
            Worker(settings, flow="flows.rollups", directory=directory),
            Api(settings, directory) as api,
        ):
            site = Site(api, settings, database)
            with Traffic(settings, rate=10_000, events=events(plan)):
                pass
            site.publish(*story(frame))
            last = asyncio.run(last_sequence(settings))
            eventually(lambda: counted(database) == last, 30, what="everything is counted")
            yield site
