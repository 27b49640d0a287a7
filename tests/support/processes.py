"""What runs on this machine, and who may pass where."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def owners(pids: Iterable[int]) -> set[int]:
    """Users of these processes; of one that has ended there is none."""
    found = set()
    for pid in pids:
        with suppress(FileNotFoundError):
            found.add(Path(f"/proc/{pid}").stat().st_uid)
    return found


def command_lines() -> Iterator[str]:
    """Give the command line of every process."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield file.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def passable(path: Path) -> bool:
    """Whether every user may reach this file, links followed."""
    return all(one.stat().st_mode & 0o001 for one in path.resolve().parents)


@contextmanager
def open_directory() -> Iterator[Path]:
    """Give a directory that every user may pass through; pytest's own are closed."""
    with TemporaryDirectory(prefix="slate-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
