"""Fuzz every target, or those named, each for some seconds: `python -m tests.fuzz --seconds 60 decoder`."""

import argparse
import re
import subprocess
import sys
from typing import Final

from tests.fuzz.engine import DIRECTORY, TARGETS

_FIGURES: Final = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


def main() -> int:
    """Say what each target did; the result is 1 when one broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    told = parser.parse_args()
    failed = 0
    for name in told.targets or TARGETS:
        log = DIRECTORY / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as file:
            command = [sys.executable, "-m", "tests.fuzz.engine", name, str(told.seconds)]
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        text = log.read_text("utf-8", "replace")
        if code == 0 and (found := _FIGURES.search(text)):
            inputs, edges, features, corpus = map(int, found.groups())
            print(f"{name}: {inputs:,} inputs, {edges:,} edges, {features:,} features, {corpus:,} kept; no finding")
        else:
            failed = 1
            print(f"{name}: a finding, or no run; the end of {log}:\n{text[-3000:]}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
