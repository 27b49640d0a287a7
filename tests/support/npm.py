"""Programs of node, with their packages."""

import shutil
import subprocess
from pathlib import Path

from tests.support.programs import need_program

_SOURCE = Path(__file__).parents[1] / "acceptance" / "npm"


def installed(directory: Path) -> Path:
    """The scripts of tests/acceptance/npm in a directory, with their packages; skips the test without npm."""
    npm = str(need_program("npm", "npm"))
    shutil.copytree(_SOURCE, directory, dirs_exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"npm could not install the packages:\n{done.stderr}"
    return directory
