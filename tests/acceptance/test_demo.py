"""`slate demo` and sessions in a terminal, as a newcomer runs them: only OpenAI and the editors are stand-ins."""

import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.unity_mcp import UnityMcpServer
from tests.support.run import run
from tests.support.stack import connect
from tests.support.up import Up, running_below
from tests.support.waiting import eventually

SLATE = [sys.executable, "-m", "deploy.cli"]
TABLES = (
    "spark_sessions",
    "spark_function_calls",
    "spark_usage",
    "spark_generated_scripts",
    "spark_previews",
    "spark_events",
    "spark_usage_daily",
)


def test_what_a_user_says_becomes_a_script_a_preview_and_rows_of_every_kind(
    tmp_path: Path, unity_mcp: UnityMcpServer
) -> None:
    assert unity_mcp.running  # it is installed by now
    with Up(tmp_path, "--sessions", "2", command="demo") as demo:
        demo.says("Started 2 sessions", 90)
        said = run([*SLATE, "session", "--say", "Create a Unity player controller"], directory=tmp_path, timeout=60)
        assert said.returncode == 0, said.stderr
        session = re.findall(r"Session (sess_[0-9a-f]{32})", said.stdout)[0]
        assert "Done: Create a Unity player controller." in said.stdout
        script = tmp_path / ".slate/demo/projects/Platformer/Assets/Scripts/PlayerController.cs"
        assert script.read_text().startswith("using UnityEngine;")
        with connect(demo.settings()) as connection:
            for table in TABLES:
                eventually(partial(_rows, connection, table, session), 20, what=f"rows in {table}")
            assert _rows(connection, "spark_usage", session) == 2
            scripts = "SELECT script_content FROM spark_generated_scripts WHERE session_id = %s"
            (content,) = _row(connection, scripts, session)
            assert content == script.read_text()
            ended = "SELECT ended_at FROM spark_sessions WHERE session_id = %s AND ended_at IS NOT NULL"
            eventually(lambda: _row(connection, ended, session))
            # Its frame is where its reference says.
            frames = "SELECT frame_ref FROM spark_previews WHERE session_id = %s AND status = 'ready'"
            (frame,) = _row(connection, frames, session)
            assert (tmp_path / ".slate/frames" / frame).read_bytes().startswith(b"\x89PNG")
            # The sessions of the demo go through the same.
            others = "SELECT count(*) FROM spark_generated_scripts WHERE session_id <> %s"
            eventually(lambda: _row(connection, others, session)[0] > 0, 30)
            letters = connection.execute("SELECT count(*) FROM slate.dead_letters").fetchone()
            assert letters == (0,)
        demo.send(signal.SIGINT)
        assert demo.wait() == 0
        stops = re.findall(r"Stopping ([\w ]+) \.\.\. ok", demo.output)
        assert stops[:7] == ["api", "sessions", "rollups", "ingest", "Unity editors", "Unity MCP", "OpenAI Realtime"]
    eventually(lambda: not running_below(tmp_path))


def _rows(connection: psycopg.Connection, table: str, session: str) -> int:
    return int(_row(connection, f"SELECT count(*) FROM {table} WHERE session_id = %s", session)[0])


def _row(connection: psycopg.Connection, query: str, session: str) -> tuple[Any, ...]:
    return connection.execute(query.encode(), (session,)).fetchone() or ()


def test_a_session_without_servers_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    nats = {"NATS_URL": "nats://127.0.0.1:4"}
    session, module = [*SLATE, "session"], [sys.executable, "-m", "realtime"]
    for command, environment, remedy in (
        (session, {}, "NATS_URL"),
        (module, {}, "NATS_URL"),
        (session, nats, "UNITY_MCP_URL"),
        (module, {**nats, "UNITY_MCP_URL": "http://127.0.0.1:4/mcp"}, "SLATE_UNITY_INSTANCE"),
        (session, {**nats, "UNITY_MCP_URL": "http://unity.example/mcp"}, "must be https://"),
        (module, {**nats, "SPARK_SONNET_MODE": "wild"}, "SPARK_SONNET_MODE"),
    ):
        said = run([*command, "--say", "Hello"], directory=tmp_path, environment={**_plain(), **environment})
        assert said.returncode == 1, said.stderr
        assert remedy in said.stderr
        assert "Traceback" not in said.stderr


def _plain() -> dict[str, str]:
    repository = Path(__file__).parents[2]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(repository)}


@pytest.mark.parametrize("options", [["--help"], ["--mode", "wild"]])
def test_usage_is_explained(tmp_path: Path, options: list[str]) -> None:
    said = run(
        [*SLATE, "session", *options], directory=tmp_path, environment={**_plain(), "NATS_URL": "nats://127.0.0.1:4"}
    )
    assert said.returncode == (0 if "--help" in options else 2)
    assert "deterministic" in said.stdout + said.stderr
