"""A systemd of our own: a process tree that sees this machine's files, its writes kept to itself, in a control group of
its own. Ports are the machine's, so that its services reach a test's servers. Needs root and control groups v2.
"""

import os
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.support.programs import need_program
from tests.support.run import run
from tests.support.waiting import eventually

_CGROUPS: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_INSIDE: Final = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system" "$root/run/old"
printf '[Unit]\nDescription=box\nDefaultDependencies=no\n' >"$root/etc/systemd/system/box.target"
cd "$root"
pivot_root . run/old
umount -l /run/old
mount --make-rshared /
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd \
  --system --unit=box.target --log-target=journal --show-status=no
"""


class Box:
    """A context manager; skips the test where there can be none."""

    def __init__(self, directory: Path) -> None:
        need_program("systemctl", "systemd")
        if os.geteuid():
            pytest.skip("a systemd of our own needs root")
        found = [one for one in _CGROUPS if (one / "cgroup.controllers").exists()]
        if not found or not os.access(found[0], os.W_OK):
            pytest.skip("a systemd of our own needs control groups v2 that can be written to")
        self._cgroup = found[0] / f"slate-box-{uuid.uuid4().hex[:8]}"
        self._directory = directory
        self._log = directory.with_suffix(".log")
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self._directory.mkdir()
        self._cgroup.mkdir()
        script = f'echo $$ >{self._cgroup}/cgroup.procs; exec unshare "$@"'
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc"]
        inside = ["sh", "-c", _INSIDE, "inside", str(self._directory)]
        with self._log.open("wb") as log:
            self._outer = subprocess.Popen(
                ["sh", "-c", script, "outside", *namespaces, *inside], stdout=log, stderr=log
            )
        try:
            eventually(self._is_up, 20, what="systemd in the box")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.do("journalctl", "--no-pager", "--lines=80", "--unit=slate-*").stdout)
            error.add_note(self._log.read_text()[-4000:])
        self._end()

    def do(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end."""
        return run(["nsenter", f"--target={self._pid}", "--all", *command], timeout=timeout)

    def done(self, *command: str, timeout: float = 120) -> str:
        """As `do`, of a command that must succeed; what it said."""
        done = self.do(*command, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def said(self) -> str:
        """What systemd itself logged."""
        return self.done("journalctl", "--no-pager", "_PID=1")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.done("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def write(self, path: str, text: str) -> None:
        """Write a file inside, mode 0600."""
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._pid}",
                "--all",
                "sh",
                "-c",
                f"umask 077; mkdir -p {Path(path).parent}; cat >{path}",
            ],
            input=text.encode(),
            check=False,
        )
        assert done.returncode == 0, path

    def _is_up(self) -> bool:
        assert self._outer is not None
        assert self._outer.poll() is None, self._log.read_text()
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._pid = int(children[0])
        return self.do("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def _end(self) -> None:
        """Whatever runs inside ends with the first process of its namespace."""
        (self._cgroup / "cgroup.kill").write_text("1")
        if self._outer is not None:
            self._outer.wait(20)
        eventually(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), 20)
        for one in sorted(self._cgroup.rglob("*/"), reverse=True):
            if one.is_dir():
                one.rmdir()
        self._cgroup.rmdir()
