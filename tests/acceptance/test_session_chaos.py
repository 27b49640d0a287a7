"""Sessions through trouble: NATS away for a minute, and the process of the sessions killed in between."""

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import nats
import pytest

from connectors.settings import Settings
from deploy.processes import environment_of, kill_tree, spawn
from deploy.servers import NatsServer, ValkeyServer
from deploy.standins import EditorStandIn, studio
from deploy.unity_mcp import UnityMcpServer
from tests.support.waiting import eventually

AWAY_S = 60.0


@contextmanager
def sessions(settings: Settings, projects: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Demo sessions as a process of their own."""
    options = [word for one in projects for word in ("--project", one)]
    process = spawn(
        [sys.executable, "-m", "realtime.demo", "--sessions", "8", *options],
        log=log,
        environment=os.environ | environment_of(settings) | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        yield process
    finally:
        kill_tree(process)


@pytest.mark.chaos
def test_no_event_is_lost_when_nats_is_away_for_a_minute_and_the_process_is_killed_meanwhile(
    settings: Settings, nats_server: NatsServer, valkey: ValkeyServer, unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    standins = studio(tmp_path, lambda name: tmp_path / f"{name}.log")
    for one in standins:
        one.start()
    editors = next(one for one in standins if isinstance(one, EditorStandIn))
    more = {
        "openai_url": standins[0].environment()["SLATE_OPENAI_URL"],
        "openai_key": "demo",
        "unity_mcp_url": standins[1].environment()["UNITY_MCP_URL"],
        "jwt_secret": secrets.token_hex(32),
        "spill_dir": tmp_path / "spill",
        "dir": tmp_path,
    }
    whole = Settings.load(local=False, **{name: getattr(settings, name) for name in settings.model_fields_set}, **more)
    try:
        with sessions(whole, editors.instances, tmp_path / "first.log") as first:
            eventually(lambda: len(_numbers(whole)) >= 8, 60, what="sessions publish")
            nats_server.kill()
            began = monotonic()
            eventually(lambda: monotonic() - began > AWAY_S / 2, AWAY_S, what="half of the minute")
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert list((tmp_path / "spill").rglob("*.log")), "nothing was kept"
            with sessions(whole, editors.instances, tmp_path / "second.log") as second:
                eventually(lambda: monotonic() - began > AWAY_S, AWAY_S, what="the other half")
                nats_server.start()
                eventually(lambda: "sending what an earlier process" in (tmp_path / "second.log").read_text(), 30)
                second.send_signal(signal.SIGTERM)
                assert second.wait(60) == 0
        assert not [one for one in (tmp_path / "spill").rglob("*.log") if one.stat().st_size]
        numbers = _numbers(whole)
        assert len(numbers) >= 16
        for session, found in numbers.items():
            assert found == list(range(1, len(found) + 1)), session
    finally:
        for one in reversed(standins):
            one.stop()


def _numbers(settings: Settings) -> dict[str, list[int]]:
    """The numbers of each session's events, in the stream's order, repetitions left out."""

    async def read() -> list[str]:
        client = await nats.connect(settings.nats_servers())
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(settings.stream)).state
            sequences = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            messages = [await jetstream.get_msg(settings.stream, one) for one in sequences]
            return [str((one.headers or {})["Nats-Msg-Id"]) for one in messages]
        finally:
            await client.close()

    found: dict[str, list[int]] = defaultdict(list)
    for identity in dict.fromkeys(asyncio.run(read())):
        match = re.fullmatch(r"(sess_[0-9a-f]{32}):(\d+)", identity)
        assert match, identity
        found[match[1]].append(int(match[2]))
    return found
