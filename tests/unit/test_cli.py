"""The command line: what it offers, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from tests.support.waiting import eventually

COMMAND = [sys.executable, "-m", "deploy.cli"]


def slate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], **environment},
    )


def test_help_lists_every_command() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    for command in ("up", "migrate", "doctor", "simulate", "dead-letters"):
        assert command in said


@pytest.mark.parametrize("command", ["up", "migrate", "doctor", "simulate", "dead-letters"])
def test_each_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"slate {command}" in result.output or f"root {command}" in result.output


def test_the_console_script_is_this_command() -> None:
    script = Path(sys.executable).with_name("slate")
    said = subprocess.run([script, "--help"], check=True, capture_output=True, text=True, timeout=30).stdout
    assert "doctor" in said


def test_an_error_is_one_message_on_stderr_and_exit_code_1() -> None:
    result = slate("migrate")
    assert result.returncode == 1
    assert result.stderr.startswith("slate: no PostgreSQL: set SLATE_DB_HOST")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_malformed_setting_is_named() -> None:
    result = slate("migrate", SLATE_DB_PORT="99999")
    assert result.returncode == 1
    assert "SLATE_DB_PORT" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("up", "--nonsense"), ("up", "--rate", "0"), ("up", "--trace", "missing.csv"), ("migrate", "x")],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, list(arguments)).exit_code == 2


def test_a_rate_makes_no_sense_for_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.touch()
    result = CliRunner().invoke(app, ["up", "--trace", str(trace), "--rate", "5"])
    assert result.exit_code == 2
    assert "--rate" in result.output


def test_ctrl_c_interrupts_work_with_exit_code_130(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(20)
        environment = {"PATH": os.environ["PATH"], "SLATE_DB_HOST": "127.0.0.1"}
        environment["SLATE_DB_PORT"] = str(silent.getsockname()[1])
        with (tmp_path / "err").open("w") as errors:
            process = subprocess.Popen([*COMMAND, "migrate"], env=environment, stderr=errors)
            try:
                connection, _ = silent.accept()  # it works now: it waits for an answer
                with connection:
                    process.send_signal(signal.SIGINT)
                    eventually(lambda: process.poll() is not None, what="migrate ends")
            finally:
                process.kill()
                process.wait()
        assert process.returncode == 130, (tmp_path / "err").read_text()
        assert "Traceback" not in (tmp_path / "err").read_text()
