"""Sessions: how long an input takes to a preview, a call and a publish, beside the stand-ins, and a thousand at once.

    python -m tests.bench.realtime [--turns N] [--runs N] [--sessions N]

OpenAI and the editors are stand-ins, each in a process of its own; the Unity MCP server, NATS and Valkey are real.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
from pydantic import SecretStr

from connectors import logs
from connectors.settings import Settings
from connectors.unity import UnityServer
from deploy.embedded import Server
from deploy.processes import variables
from deploy.servers import ValkeyServer
from deploy.standins import EditorStandIn, studio
from deploy.unity_mcp import install
from realtime.backend import Backend
from realtime.happenings import CallEnded, CallStarted
from realtime.session import SparkRealtimeSession
from realtime.terminal import token_of
from tests.bench.__main__ import line, servers


@dataclass
class SessionFigures:
    """Milliseconds, each as measured."""

    preview: list[float] = field(default_factory=list)
    """From `send_user_input` to the end of renderPreview."""
    call: list[float] = field(default_factory=list)
    """From the model's call to its end."""
    alone: list[float] = field(default_factory=list)
    """A call of the Unity MCP server and the editor, without anything of ours."""
    publish: list[float] = field(default_factory=list)
    """From `put` to JetStream's acknowledgement, one at a time."""


@dataclass
class ManyFigures:
    """What sessions at once take."""

    connect_s: float
    """From the first `connect` to the last that is done."""
    turn: list[float]
    """Milliseconds of a turn without calls, one in each session within a minute."""
    resident_mib: float
    per_session_kib: float
    cpu_s: float


@contextmanager
def studio_for(settings: Settings, directory: Path) -> Iterator[tuple[Settings, EditorStandIn]]:
    """Stand-ins, Valkey and the Unity MCP server, and settings that point to them."""
    install()
    directory.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = [
        ValkeyServer(directory / "valkey"),
        *studio(directory, lambda name: directory / f"{name}.log"),
    ]
    try:
        for server in servers:
            server.start()
        found = {name: value for server in servers for name, value in server.environment().items()}
        fields = {name: found[one] for name, one in variables().items() if one in found}
        more = {
            "jwt_secret": "of the benchmark, which nobody else uses",
            "spill_dir": directory / "spill",
            "frames_url": (directory / "frames").as_uri(),
            "quota_tokens": 0,
            "quota_inputs": 0,
            "quota_sessions": 0,
        }
        given = {name: getattr(settings, name) for name in settings.model_fields_set}
        editors = next(one for one in servers if isinstance(one, EditorStandIn))
        yield Settings.load(local=False, **(given | fields | more)), editors
    finally:
        for server in reversed(servers):
            server.stop()


def _session(backend: Backend) -> SparkRealtimeSession:
    secret = backend.settings.jwt_secret or SecretStr("")
    return SparkRealtimeSession(token=token_of(backend.settings, secret, str(uuid4())), backend=backend)


async def one_at_a_time(settings: Settings, turns: int) -> SessionFigures:
    """Turns one after the other, each with a script and a preview."""
    figures = SessionFigures()
    async with Backend(settings) as backend:
        for _ in range(turns):
            async with _session(backend) as session:
                await _turn(session, figures)
        await backend.events.flush(10)
        for number in range(turns * 5):
            began = time.perf_counter()
            body = b'{"kind":"bench","data":{}}'
            await backend.events.put("spark.telemetry.sess_bench", body, msg_id=f"bench-{began}-{number}")
            await backend.events.flush(10)
            figures.publish.append((time.perf_counter() - began) * 1000)
    async with UnityServer(settings.unity_mcp_url or "") as unity:
        for _ in range(turns):
            began = time.perf_counter()
            await unity.call(settings.unity_instance or "", "read_console", {"action": "get", "count": "1"})
            figures.alone.append((time.perf_counter() - began) * 1000)
    return figures


async def _turn(session: SparkRealtimeSession, figures: SessionFigures) -> None:
    began = time.perf_counter()
    # Each time another script, so that it is created, and the preview is no cached one.
    name = "".join(chr(97 + int(digit, 16)) for digit in uuid4().hex[:12])
    ended = await session.send_user_input(f"Create a Unity {name}")
    starts: dict[str, float] = {}
    async for happening in session:
        if isinstance(happening, CallStarted):
            starts[happening.call_id] = time.perf_counter()
        if isinstance(happening, CallEnded):
            figures.call.append((time.perf_counter() - starts[happening.call_id]) * 1000)
            if happening.name == "renderPreview":
                figures.preview.append((time.perf_counter() - began) * 1000)
                break
    await ended


async def many(settings: Settings, sessions: int) -> ManyFigures:
    """So many sessions in this process, each with a turn."""
    process = psutil.Process()
    async with Backend(settings) as backend:
        before = process.memory_info().rss
        cpu = process.cpu_times()
        began = time.perf_counter()
        made = [_session(backend) for _ in range(sessions)]
        gate = asyncio.Semaphore(64)

        async def connect(one: SparkRealtimeSession) -> None:
            async with gate:
                await one.connect()

        await asyncio.gather(*map(connect, made))
        connected = time.perf_counter() - began
        turns = await asyncio.gather(*(_spread(one, number, sessions) for number, one in enumerate(made)))
        resident = process.memory_info().rss
        spent = process.cpu_times()
        await asyncio.gather(*(one.disconnect() for one in made))
        await backend.events.flush(60)
    return ManyFigures(
        connected,
        turns,
        resident / 2**20,
        (resident - before) / 1024 / sessions,
        spent.user + spent.system - cpu.user - cpu.system,
    )


async def _spread(session: SparkRealtimeSession, number: int, sessions: int) -> float:
    await asyncio.sleep(60.0 * number / sessions)
    began = time.perf_counter()
    ended = await (await session.send_user_input("Hello"))
    assert ended.status == "completed", ended
    return (time.perf_counter() - began) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Of the values as measured, the one that this share is not above."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.realtime", description="Benchmark of sessions.")
    parser.add_argument("--turns", type=int, default=50, help="turns one after the other, in each run")
    parser.add_argument("--runs", type=int, default=3, help="how often that is measured")
    parser.add_argument("--sessions", type=int, default=1000, help="sessions at once")
    options = parser.parse_args()
    logs.configure(Settings.load(local=False, log_level="error"))
    with servers() as (base, _), studio_for(base, Path(".slate/bench/studio").absolute()) as (found, editors):
        settings = found.model_copy(update={"unity_instance": editors.instances[0]})
        runs = [asyncio.run(one_at_a_time(settings, options.turns)) for _ in range(options.runs)]
        for what, name in (
            ("input to preview", "preview"),
            ("call", "call"),
            ("  Unity MCP server and editor alone", "alone"),
            ("publish to acknowledgement", "publish"),
        ):
            for share in (0.5, 0.99):
                values = [percentile(getattr(run, name), share) for run in runs]
                line(f"{what}, p{share * 100:.0f}", values, "ms")
        figures = asyncio.run(many(settings, options.sessions))
        line(f"{options.sessions} sessions connect in", [figures.connect_s], "s")
        for share in (0.5, 0.99):
            line(f"  a turn in each in a minute, p{share * 100:.0f}", [percentile(figures.turn, share)], "ms")
        line("  resident memory", [figures.resident_mib], "MiB")
        line("  of a session", [figures.per_session_kib], "KiB")
        line("  CPU", [figures.cpu_s], "s")


if __name__ == "__main__":
    main()
