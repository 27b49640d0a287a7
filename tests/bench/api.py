"""The HTTP service at a steady rate of requests, while ingest and rollups drain a backlog beside it.

    python -m tests.bench.api [--rate N] [--seconds N] [--runs N] [--messages N]

Requests are sent when they are due, whether or not those before them are answered, so that waiting counts.
"""

import argparse
import asyncio
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from connectors import logs
from connectors.settings import Settings
from deploy.embedded import HOST, free_port
from deploy.processes import environment_of
from deploy.servers import ValkeyServer
from deploy.supervisor import Program
from realtime.bench_mix import bench_mix
from realtime.terminal import token_of
from tests.bench.__main__ import line, publish, say, servers
from tests.support.waiting import eventually
from tests.support.worker import Worker

PATHS = ("figures", "sessions?active=true", "calls", "usage", "errors", "alerts", "scripts", "minutes")
CONNECTIONS = 64


@dataclass
class Load:
    """Milliseconds of each request, and how many failed."""

    taken: list[float]
    failed: int


async def load(port: int, token: str, rate: int, seconds: int) -> Load:
    """Ask for each of `PATHS` in turn."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(HOST, port))
    result = Load([], 0)
    began = time.perf_counter()

    async def ask(number: int) -> None:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        reader, writer = await free.get()
        path = PATHS[number % len(PATHS)]
        writer.write(f"GET /v1/{path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        result.taken.append((time.perf_counter() - due) * 1000)
        result.failed += not head.startswith(b"HTTP/1.1 200")
        free.put_nowait((reader, writer))

    await asyncio.gather(*(ask(number) for number in range(rate * seconds)))
    while not free.empty():
        free.get_nowait()[1].close()
    return result


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.api", description="Benchmark of the HTTP service.")
    parser.add_argument("--rate", type=int, default=500, help="requests a second")
    parser.add_argument("--seconds", type=int, default=15, help="how long, in each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--messages", type=int, default=400_000, help="backlog that is drained meanwhile")
    options = parser.parse_args()
    logs.configure(Settings.load(local=False, log_level="error"))
    directory = Path(".slate/bench").absolute()
    with servers() as (base, _):
        valkey = ValkeyServer(directory / "valkey")
        valkey.start()
        port = free_port()
        more = {"redis_host": HOST, "redis_port": valkey.port, "api_port": port, "api_limit": 0}
        settings = base.model_copy(update=more)
        secret = secrets.token_urlsafe(48)
        environment = os.environ | environment_of(settings) | {"SLATE_JWT_SECRET": secret}
        command = [sys.executable, "-m", "realtime.api"]
        api = Program("api", command, environment=environment, log=directory / "api.log", port=port)
        try:
            api.start()
            say("publishing")
            asyncio.run(publish(settings, options.messages, bench_mix(options.messages)))
            settled = Settings.load(local=False, jwt_secret=secret)
            assert settled.jwt_secret is not None
            token = token_of(settled, settled.jwt_secret, "00000000-0000-4000-8000-000000000000", ("spark:admin",))
            eventually(lambda: asyncio.run(_up(port)), 20)
            with Worker(settings):
                runs = [asyncio.run(load(port, token, options.rate, options.seconds)) for _ in range(options.runs)]
            for share, name in ((0.5, "p50"), (0.99, "p99")):
                values = [sorted(run.taken)[int(len(run.taken) * share)] for run in runs]
                line(f"{options.rate} requests/s while ingest drains, {name}", values, "ms")
            line("  not answered with 200", [float(run.failed) for run in runs], "")
        finally:
            api.stop()
            valkey.stop()


async def _up(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


if __name__ == "__main__":
    main()
