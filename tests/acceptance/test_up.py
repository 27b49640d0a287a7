"""`slate up`, as a newcomer runs it: in an empty directory, until Ctrl-C."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.settings import Settings
from deploy.embedded import port_is_free
from deploy.local import LocalStack
from deploy.processes import environment_of
from tests.support.processes import open_directory, owners, passable
from tests.support.run import run
from tests.support.stack import connect
from tests.support.up import Up, running_below
from tests.support.waiting import eventually

NOBODY = 65534
STARTED = "Started traffic"


def rows_arrive(up: Up, more_than: int = 0) -> int:
    return eventually(lambda: (now := up.stored()) > more_than and now, timeout=60, what="rows arrive")


def nothing_runs(directory: Path) -> None:
    eventually(lambda: not running_below(directory), what=f"nothing runs in {directory}")


def test_rows_arrive_ctrl_c_stops_everything_and_a_second_up_keeps_the_data(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.says(STARTED)
        rows_arrive(up)
        assert (tmp_path / ".slate" / "env").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / ".slate").stat().st_mode & 0o777 == 0o700
        first = up.settings()
        eventually(lambda: re.search(r"today: [1-9][\d,]* tokens, \$\d", up.output), 30, what="today's figures")
        up.send(signal.SIGINT)
        assert up.wait() == 0
        said = up.output
    nothing_runs(tmp_path)
    assert re.search(r"Starting PostgreSQL 18\S* on 127.0.0.1:\d+ \.\.\. ok", said)
    stops = re.findall(r"Stopping (\S+) \.\.\. ok", said)
    assert stops == ["api", "traffic", "rollups", "ingest", "Valkey", "NATS", "PostgreSQL"]
    assert not (tmp_path / ".slate" / "env").exists()

    with Up(tmp_path, "--no-traffic") as up:
        up.says("Started worker")
        assert up.settings() == first
        assert up.stored() > 0
        up.send(signal.SIGTERM)
        assert up.wait() == 0
    nothing_runs(tmp_path)


def test_an_alert_is_provoked_and_shown_by_the_receiver_that_it_starts(tmp_path: Path) -> None:
    with Up(tmp_path, "--rate", "300") as up:
        up.says("In 20 s apply_patch fails for a minute, to show an alert")
        up.says("alert firing: apply_patch: ", 90)
        up.says("alerts: ", 30)
        listed = run([sys.executable, "-m", "deploy.cli", "alerts", "list"], directory=tmp_path)
        assert "function=apply_patch" in listed.stdout, listed.stderr
        assert "webhook: delivered" in listed.stdout
        up.send(signal.SIGINT)
        assert up.wait() == 0
    nothing_runs(tmp_path)


@pytest.mark.parametrize("part", ["flows.ingest", "flows.rollups", "postgres", "nats-server", "deploy.cli simulate"])
def test_what_is_killed_is_reported_and_comes_back(tmp_path: Path, part: str) -> None:
    with Up(tmp_path, "--rate", "50") as up:
        up.says(STARTED)
        rows_arrive(up)
        pid = up.pid_of(part)
        os.kill(pid, signal.SIGKILL)
        up.says("SIGKILL")
        up.says("runs again")
        # It has its own command line only once the guard that starts it has become it.
        eventually(lambda: up.pid_of(part) != pid, what=f"another {part}")
        rows_arrive(up, up.stored())
        up.send(signal.SIGINT)
        assert up.wait() == 0
    nothing_runs(tmp_path)


def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.says(STARTED)
        rows_arrive(up)
        os.kill(up.pid_of("flows.ingest"), signal.SIGSTOP)  # it will not drain
        up.send(signal.SIGINT)
        up.says("Stopping ingest")
        # one that follows at once is the same wish, told by another sender
        first = time.monotonic()
        eventually(lambda: time.monotonic() - first > 1.1)
        up.send(signal.SIGINT)
        assert up.wait(10) == 0
        assert "Killing what still runs" in up.output
    nothing_runs(tmp_path)


def test_no_orphan_survives_kill_9_and_the_next_up_works_at_once(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.says(STARTED)
        before = rows_arrive(up)
        up.send(signal.SIGKILL)
        up.wait()
    with Up(tmp_path) as up:
        up.says(STARTED)
        rows_arrive(up, before)
        up.send(signal.SIGKILL)
        up.wait()
    nothing_runs(tmp_path)


def test_only_one_up_runs_in_a_directory(tmp_path: Path) -> None:
    with Up(tmp_path, "--no-traffic") as up:
        up.says("Started worker")
        assert up.process is not None
        second = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "up"],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=30,
        )
        assert second.returncode == 1
        assert f"already runs here (pid {up.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert up.stored() == 0
        up.send(signal.SIGHUP)
        assert up.wait() == 0
    nothing_runs(tmp_path)


def test_other_ports_are_taken_where_the_standard_ones_are_not_free_and_kept(tmp_path: Path) -> None:
    with ExitStack() as opened:
        for port in LocalStack.STANDARD_PORTS.values():
            taken = opened.enter_context(socket.socket())
            if port_is_free(port):
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(("127.0.0.1", port))
                taken.listen()
        first = ports_of_a_short_run(tmp_path)
        assert not first & set(LocalStack.STANDARD_PORTS.values())
    assert ports_of_a_short_run(tmp_path) == first


def ports_of_a_short_run(directory: Path) -> set[int]:
    with Up(directory, "--no-traffic", "--seconds", "0") as up:
        assert up.wait() == 0
        return {int(one) for one in re.findall(r"Starting .* on 127.0.0.1:(\d+) \.\.\. ok", up.output)}


def test_servers_that_the_user_names_are_used_and_none_is_started(tmp_path: Path, empty_settings: Settings) -> None:
    environment = environment_of(empty_settings.model_copy(update={"dir": Path(".slate"), "metrics_port": 9090}))
    with Up(tmp_path, environment=environment) as up:
        up.says(STARTED)
        with connect(empty_settings) as connection:
            eventually(lambda: connection.execute("SELECT FROM spark_events LIMIT 1").fetchone() is not None, 30)
        assert len(running_below(tmp_path)) == 5  # slate up, ingest, rollups, traffic, api
        up.send(signal.SIGINT)
        assert up.wait() == 0
        said = up.output
    nothing_runs(tmp_path)
    assert "Starting" not in said
    assert f"Using PostgreSQL on 127.0.0.1:{empty_settings.db_port}" in said
    assert not {"postgres", "nats", "valkey"} & {one.name for one in (tmp_path / ".slate").iterdir()}


def test_a_trace_is_replayed_once(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    lines = [f"2023-11-16 18:15:46.{number:03}0000,{number},7\r\n" for number in range(1, 101)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "".join(lines), newline="")
    with Up(tmp_path, "--trace", str(trace)) as up:
        up.says("traffic has finished")
        eventually(lambda: up.stored() == 100, what="the trace is stored")
        up.send(signal.SIGINT)
        assert up.wait() == 0
    nothing_runs(tmp_path)


def test_a_terminal_shows_a_live_view_and_is_left_as_it_was(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "up"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LINES": "40", "COLUMNS": "110"},
        start_new_session=True,
    )
    try:
        seen = read_until(master, lambda text: "spark_usage" in text and re.search(r"rate\D+[1-9]", text) is not None)
        assert "\x1b[?25l" in seen  # the cursor is hidden while it draws
        process.send_signal(signal.SIGINT)
        after = read_until(master, lambda text: "Stopping PostgreSQL ... ok" in text)
        assert process.wait(60) == 0
        assert "\x1b[?25h" in after
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
    nothing_runs(tmp_path)


def read_until(descriptor: int, condition: Callable[[str], bool]) -> str:
    seen = b""

    def enough() -> bool:
        nonlocal seen
        seen += os.read(descriptor, 1 << 16)
        return condition(re.sub(r"\x1b\[[0-9;]*m", "", seen.decode(errors="replace")))

    eventually(enough, timeout=60, what="the terminal shows it")
    return seen.decode(errors="replace")


def test_a_reader_that_goes_away_stops_it_in_order(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "up", "--no-traffic"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Starting PostgreSQL")
        process.stdout.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    nothing_runs(tmp_path)


def test_an_ordinary_user_can_bring_it_up() -> None:
    uid = NOBODY if os.geteuid() == 0 else None
    traverse = uid is not None and not (passable(Path(sys.executable)) and passable(Path(__file__)))
    with open_directory() as directory:
        if uid is not None:
            os.chown(directory, uid, uid)
        with Up(directory, uid=uid, traverse=traverse) as up:
            up.says(STARTED)
            rows_arrive(up)
            assert owners(running_below(directory)) == {uid or os.geteuid()}
            up.send(signal.SIGINT)
            assert up.wait() == 0
        nothing_runs(directory)


def test_what_cannot_start_is_explained_and_nothing_stays_running(tmp_path: Path) -> None:
    with Up(tmp_path, "--no-traffic", "--seconds", "0") as up:
        assert up.wait() == 0
    (tmp_path / ".slate" / "nats" / "nats.conf").unlink()
    (tmp_path / ".slate" / "nats" / "nats.conf").mkdir()
    (tmp_path / ".slate" / "postgres" / "data" / "PG_VERSION").write_text("9.6\n")
    with Up(tmp_path) as up:
        assert up.wait() == 1
        assert "was written by PostgreSQL 9.6" in up.output
        assert "Traceback" not in up.output
    nothing_runs(tmp_path)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLATE_DB_PASSWORD": "x"}, "SLATE_DB_PASSWORD is set, and SLATE_DB_HOST is not"),
        ({"SLATE_DIR": "/proc/slate"}, "set SLATE_DIR to a directory of your own"),
        ({"SLATE_PARTITIONS": "no"}, "SLATE_PARTITIONS"),
    ],
)
def test_settings_that_make_no_sense_are_explained(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    with Up(tmp_path, environment=environment) as up:
        assert up.wait() == 1
        assert message in up.output
        assert "Traceback" not in up.output


def test_a_port_that_the_user_wants_is_used_or_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with Up(tmp_path, environment={"REDIS_PORT": port}) as up:
            assert up.wait() == 1
            assert f"REDIS_PORT={port} is taken" in up.output
    with Up(tmp_path, "--no-traffic", "--seconds", "0", environment={"REDIS_PORT": port}) as up:
        assert up.wait() == 0
        assert f"on 127.0.0.1:{port} ... ok" in up.output
