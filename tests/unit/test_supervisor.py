"""Keeping parts running."""

import os
import signal
import sys
from pathlib import Path

import pytest

from connectors.errors import ConnectionFailedError
from deploy.supervisor import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STEADY_S,
    Interrupted,
    Interrupts,
    Program,
    Supervised,
    Supervisor,
)
from tests.support.waiting import eventually


def program(tmp_path: Path, code: str, *, endless: bool = True) -> Program:
    return Program("worker", [sys.executable, "-c", code], environment={}, log=tmp_path / "worker.log", endless=endless)


def steps(supervisor: Supervisor, until: str) -> list[str]:
    said: list[str] = []

    def reached() -> bool:
        said.extend(supervisor.step())
        return any(until in one for one in said)

    eventually(reached, what=f"the supervisor says {until!r}")
    return said


def test_the_pause_doubles_to_a_limit_and_starts_over_after_steady_work() -> None:
    one = Supervised(program(Path(), ""))
    pauses = []
    for _ in range(10):
        one.started(100.0)
        pauses.append(one.crashed(101.0))
    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses[-1] == LONGEST_PAUSE_S
    one.started(1000.0)
    assert one.crashed(1000.0 + STEADY_S) == FIRST_PAUSE_S


def test_who_is_killed_is_reported_and_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor()
    part = program(tmp_path, "import signal; signal.pause()")
    supervisor.start(part)
    try:
        assert list(supervisor.step()) == []
        first = part.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        said = steps(supervisor, until="runs again")
        assert "worker ended by signal SIGKILL; starting it again in 0.25 s" in said[0]
        assert part.pid != first
        assert supervisor.parts[0].restarts == 1
    finally:
        supervisor.kill()
    assert not part.running


def test_who_should_run_for_ever_and_ends_is_started_again_even_without_an_error(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.start(program(tmp_path, ""))
    try:
        steps(supervisor, until="with exit code 0; starting it again")
    finally:
        supervisor.kill()


def test_who_has_done_his_work_stays_away(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.start(program(tmp_path, "", endless=False))
    assert steps(supervisor, until="finished") == ["worker has finished"]
    assert list(supervisor.step()) == []
    assert supervisor.parts[0].state == "finished"


def test_a_restart_that_fails_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor()
    part = program(tmp_path, "")
    supervisor.start(part)

    def fail() -> None:
        raise ConnectionFailedError("the port is taken.\nlong log")

    monkeypatch.setattr(part, "start", fail)
    said = steps(supervisor, until="taken")
    assert said[-1] == "the port is taken. Trying again in 0.5 s"
    assert supervisor.parts[0].state == "down"


def test_parts_stop_in_the_opposite_order_of_their_start(tmp_path: Path) -> None:
    supervisor = Supervisor()
    parts = [program(tmp_path, "import signal; signal.pause()") for _ in range(3)]
    for one in parts:
        supervisor.start(one)
    try:
        assert supervisor.to_stop() == parts[::-1]
        parts[2].stop()
        assert parts[2].exit_code == -signal.SIGTERM
        assert supervisor.to_stop() == parts[1::-1]
    finally:
        supervisor.kill()
    assert supervisor.to_stop() == []


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    part = program(tmp_path, code)
    part.start()
    try:
        eventually(lambda: "ready" in part.log.read_text())
        part.stop(timeout=0.1)
        assert part.exit_code == -signal.SIGKILL
    finally:
        part.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_and_its_echo_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same wish, by another sender
        assert interrupts.requested
    assert signal.getsignal(number) == before


def test_a_deferred_signal_ends_the_wait_and_raises_nothing() -> None:
    with Interrupts() as interrupts, interrupts.deferred():
        assert not interrupts.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.wait(60)
