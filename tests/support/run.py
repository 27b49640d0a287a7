"""A command, run to its end."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """What it said and how it ended."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=directory, check=False
    )
