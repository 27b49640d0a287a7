"""A disk that is full when a test wants it: a small file system in memory. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import need_program


class Disk:
    """A file system of its own at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @property
    def free(self) -> int:
        """Bytes that are left."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, self.free - left))

    def give_back(self) -> None:
        """End that."""
        self._ballast.unlink()


@contextmanager
def disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """Mount one where `path` is made, and unmount it whatever happens; its servers must be gone by then."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mount, umount = need_program("mount", "mount"), need_program("umount", "mount")
    path.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "slate-test", path], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run([umount, "--lazy", path], check=True)
