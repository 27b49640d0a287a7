"""Child processes that never outlive their parent, and all processes below one.

Linux only: the guarantee is the kernel's (see `deploy.guard`) and the process tree is read from `/proc`.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import AliasChoices, SecretStr

from connectors.errors import ConfigurationError
from connectors.settings import Settings

_GUARD = Path(__file__).with_name("guard.py")


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    directory: Path | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    uid: int | None = None,
    traverse: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output appended to `log` (mode 0600).

    It gets `death_signal` when the thread that called this ends, however it ends, and no signal that a
    terminal sends to its foreground group: the parent decides the order in which things stop. Secrets belong
    in `environment` or a file, never in `command`, which every user of the machine can read.

    Args:
        command: program (found on PATH where it is only a name) and its arguments.
        log: file for standard output and standard error.
        environment: all of the child's environment.
        directory: working directory.
        death_signal: sent by the kernel when the calling thread ends.
        uid: run as this user and group; needs root.
        traverse: with `uid`, keep root's right to pass through closed directories.

    Raises:
        ConfigurationError: the program does not exist.
    """
    # not `which` for a path: it asks access(2), which does not know of capabilities
    program = command[0] if Path(command[0]).is_file() else shutil.which(command[0])
    if program is None:
        raise ConfigurationError(f"{command[0]} is missing or not executable: run `make install`")
    options = {"parent": os.getpid(), "signal": int(death_signal), "uid": uid, "traverse": traverse}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603  # the caller's choice, and no shell
            [
                sys.executable,
                "-IS",
                str(_GUARD),
                json.dumps(options),
                os.path.abspath(program),  # noqa: PTH100  # as it is: resolving a link would leave the venv
                *map(str, command[1:]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def tree(pid: int) -> list[int]:
    """`pid` and all processes below it, parents first; zombies are left out."""
    children: dict[int, list[int]] = {}
    alive: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it has ended meanwhile
            # proc_pid_stat(5): the name stands in parentheses and may itself hold some
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(entry.name))
            if state not in "ZX":
                alive.add(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return [one for one in found if one in alive]


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and everything below it, also where those made sessions of their own."""
    for one in tree(pid):
        with suppress(ProcessLookupError):
            os.kill(one, number)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a child and everything below it, and wait until all of them are gone.

    PostgreSQL's backends each have a session of their own, so killing its process group would spare them.
    """
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)  # no new children while the list is made
    members = tree(process.pid)
    for one in reversed(members):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()
    for one in members:
        wait_gone(one)


def wait_gone(pid: int, timeout: float = 10.0) -> bool:
    """Wait, without polling, until a process that need not be our child has ended; False at the time-out."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(handle)


def tail(log: Path, lines: int = 20, since: int = 0) -> str:
    """Return the last lines of a log, none from before the byte offset `since`."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - 64_000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return ""


def variables() -> dict[str, str]:
    """Return each setting's environment variable, by field name."""
    aliases = {name: field.validation_alias for name, field in Settings.model_fields.items()}
    return {name: str(one.choices[0]) for name, one in aliases.items() if isinstance(one, AliasChoices)}


def environment_of(settings: Settings) -> dict[str, str]:
    """Return settings as the environment from which a child reads them back, without those left unset."""
    environment = {}
    for name, variable in variables().items():
        value = getattr(settings, name)
        if value is not None:
            environment[variable] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return environment
