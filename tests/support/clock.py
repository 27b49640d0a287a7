"""A wrong clock for processes of a test, by libfaketime."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_SHARED = Path("/dev/shm")


class Clock:
    """What processes take for the time: that of the machine, and so many seconds more. Monotonic clocks go on.

        with Clock(tmp_path, 3600) as clock, Worker(settings, environment=clock.environment):
            clock.set(-3600)

    The library leaves its shared memory behind under the number of its process, where a later one of that number
    finds it.
    """

    def __init__(self, directory: Path, seconds: int = 0) -> None:
        found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        if found is None:
            pytest.skip("libfaketime is missing: apt-get install libfaketime")
        self._file = directory / "clock"
        self.set(seconds)
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Jump."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)

    def __enter__(self) -> Self:
        _tidy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _tidy()


def _tidy() -> None:
    """Remove what processes that have ended left."""
    for name in ("faketime_shm_", "sem.faketime_sem_"):
        for one in _SHARED.glob(f"{name}*"):
            if not Path("/proc", one.name.removeprefix(name)).exists():
                one.unlink(missing_ok=True)
