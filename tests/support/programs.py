"""Programs that do not come with the Python environment."""

import shutil
from pathlib import Path

import pytest


def need_program(program: str, package: str) -> Path:
    """Return a program's path, or skip the test and say which Debian package has it (a failure under CI)."""
    found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return Path(found)
