import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import nats
import pytest
import typer
from nats.js.api import DeliverPolicy
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.processes import environment_of
from realtime.simulate_command import simulate
from realtime.simulator import Plan, SimulatedEvent, events
from realtime.traces import read, usage_events
from tests.conftest import MakeSettings
from tests.support.stack import Stack
from tests.support.waiting import eventually

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"

app = typer.Typer()
app.command()(simulate)


@pytest.fixture
def stream(empty_settings: Settings) -> Settings:
    asyncio.run(ensure_stream(empty_settings))
    return empty_settings


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lines = (f"2023-11-16 18:17:{second:02}.9799600,{second},7\r\n" for second in range(60))
    path.write_text(HEADER + "".join(lines), newline="")
    return path


def run(settings: Settings, *options: str | Path) -> Result:
    return CliRunner().invoke(
        app, [str(option) for option in options], env={**environment_of(settings), "COLUMNS": "200"}
    )


def stored(settings: Settings) -> list[tuple[str, bytes]]:
    """Subject as published, and payload, of everything in the stream, in its order."""

    async def read_all() -> list[tuple[str, bytes]]:
        client = await nats.connect(settings.nats_servers())
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(settings.stream)).state
            reader = await jetstream.subscribe(">", ordered_consumer=True, deliver_policy=DeliverPolicy.ALL)
            messages = [await reader.next_msg(timeout=5) for _ in range(state.messages)]
            return [("spark." + message.subject.partition("spark.")[2], message.data) for message in messages]
        finally:
            await client.close()

    return asyncio.run(read_all())


def held(settings: Settings) -> int:
    """How many messages the stream holds."""

    async def count() -> int:
        client = await nats.connect(settings.nats_servers())
        try:
            return int((await client.jetstream().stream_info(settings.stream)).state.messages)
        finally:
            await client.close()

    return asyncio.run(count())


def once_each(made: list[SimulatedEvent]) -> list[tuple[str, bytes]]:
    """What JetStream keeps of them: one message for each message id."""
    seen: set[str] = set()
    kept = []
    for event in made:
        if event.msg_id not in seen:
            kept.append((event.subject, event.payload))
        if event.msg_id is not None:
            seen.add(event.msg_id)
    return kept


def test_the_stream_holds_exactly_what_the_simulator_made(stream: Settings) -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    options = "--messages 600 --rate 3000 --sessions 7 --invalid 0.1 --duplicates 0.2 --seed 5"
    result = run(stream, *options.split(), "--start", start.isoformat())
    assert result.exit_code == 0, result.output

    plan = Plan(start=start, messages=600, rate=3000, sessions=7, invalid=0.1, duplicates=0.2, seed=5)
    made = list(events(plan))
    kept = once_each(made)
    assert len(kept) < 600
    assert stored(stream) == kept

    words = " ".join(result.output.split())
    assert "published 600 messages in " in words
    assert f"{sum(event.repeat for event in made)} of them repeats" in words
    assert f"acknowledged 600, of which JetStream knew {600 - len(kept)} already" in words
    assert f"invalid {sum(not event.valid for event in made)}" in words
    assert "time to acknowledgement: p50 " in words


def test_messages_go_out_at_the_rate_that_was_asked_for(stream: Settings) -> None:
    begun = monotonic()
    assert run(stream, "--rate", "100", "--seconds", "0.8").exit_code == 0
    assert monotonic() - begun >= 0.79
    assert held(stream) == 80


def test_a_trace_that_is_replayed_twice_is_in_the_stream_once(stream: Settings, trace: Path) -> None:
    for known in (0, 60):
        result = run(stream, "--trace", trace, "--speed", "1000")
        assert result.exit_code == 0, result.output
        assert f"acknowledged 60, of which JetStream knew {known} already" in result.output
    assert stored(stream) == [(event.subject, event.payload) for event in usage_events(read(trace))]


def test_a_trace_that_is_shifted_to_now_is_new_each_time(stream: Settings, trace: Path) -> None:
    for _ in range(2):
        assert run(stream, "--trace", trace, "--speed", "1000", "--shift-to-now").exit_code == 0
    assert held(stream) == 120


@pytest.mark.parametrize(("option", "length"), [("--messages", "11"), ("--seconds", "0.0101")])
def test_a_trace_can_be_cut_short(stream: Settings, trace: Path, option: str, length: str) -> None:
    assert run(stream, "--trace", trace, "--speed", "1000", option, length).exit_code == 0
    assert held(stream) == 11


def test_a_trace_with_a_bad_last_line_publishes_nothing(stream: Settings, trace: Path) -> None:
    with trace.open("a") as file:
        file.write("2023-11-16 18:18:01,many,7\n")
    result = run(stream, "--trace", trace, "--speed", "1000")
    assert "line 62, column ContextTokens: 'many' is not a whole number" in str(result.exception)
    assert held(stream) == 0


def unread(port: int) -> int:
    """Bytes that have reached a server's connections but that it has not read (proc_net(5))."""
    connections = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(int(one[4].split(":")[1], 16) for one in connections if int(one[1].split(":")[1], 16) == port)


@pytest.fixture
def endless(stream: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that publishes until it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "simulate"],
        env={**environment_of(stream), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    try:
        eventually(lambda: held(stream) > 20, what="it publishes")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_last_acknowledgement(
    stream: Settings, endless: subprocess.Popen[str], number: signal.Signals, code: int
) -> None:
    endless.send_signal(number)
    output, _ = endless.communicate(timeout=10)
    assert endless.returncode == code, output
    published = held(stream)
    assert f"published {published:,} messages" in output
    assert f"acknowledged {published:,}, " in output
    assert "Traceback" not in output


def test_ctrl_c_ends_it_while_the_server_does_not_answer(
    stack: Stack, stream: Settings, endless: subprocess.Popen[str]
) -> None:
    stack.nats_server.pause()
    try:
        eventually(lambda: unread(stack.nats_server.port), what="a message waits for the paused server")
        endless.send_signal(signal.SIGINT)
        output, _ = endless.communicate(timeout=15)
    finally:
        stack.nats_server.resume()
    assert endless.returncode == 130, output
    assert "were not acknowledged: they may or may not be stored" in output
    assert "Traceback" not in output


def test_it_says_that_nats_cannot_be_reached(make_settings: MakeSettings) -> None:
    nowhere = SecretStr(f"nats://127.0.0.1:{free_port()}")
    settings = make_settings(migrated=False).model_copy(update={"nats_url": nowhere})
    result = run(settings, "--seconds", "1")
    assert "check NATS_URL" in str(result.exception)
