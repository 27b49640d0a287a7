"""Hold what the lock files pin against advisories in a directory: `python -m tests.supply.advisories DIRECTORY`.

For machines that reach no advisory service: the directory is a copy of an OSV database, such as PyPA's
(https://github.com/pypa/advisory-database) or GitHub's. It tells nothing of what was found after the copy was made.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.version import InvalidVersion, Version

from tests.supply.pins import Pin, all_pins, normal

_ECOSYSTEMS: Final = {"PyPI": "pypi", "npm": "npm"}


def affected(advisory: dict[str, Any], pins: dict[tuple[str, str], list[Pin]]) -> Iterator[Pin]:
    """The pins that an advisory in OSV's form (https://ossf.github.io/osv-schema/) is about."""
    if advisory.get("withdrawn"):
        return
    for one in advisory.get("affected", []):
        package = one.get("package", {})
        ecosystem = _ECOSYSTEMS.get(package.get("ecosystem"), "")
        for pin in pins.get((ecosystem, normal(package.get("name", ""))), []):
            ranges = [each for each in one.get("ranges", []) if each["type"] != "GIT"]
            if pin.version in one.get("versions", []) or any(_within(pin.version, each["events"]) for each in ranges):
                yield pin


def _within(version: str, events: list[dict[str, str]]) -> bool:
    try:
        this = Version(version)
        told = sorted((Version(text), kind) for event in events for kind, text in event.items() if kind != "limit")
    except InvalidVersion:
        return True  # somebody must look
    inside = False
    for at, kind in told:
        if kind == "introduced" and this >= at:
            inside = True
        elif (kind == "fixed" and this >= at) or (kind == "last_affected" and this > at):
            inside = False
    return inside


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """The advisories of a directory: files of YAML or JSON that have an `id` and say what is affected."""
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".json", ".yaml"):
            text = path.read_text("utf-8")
            told = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
            if isinstance(told, dict) and "id" in told and "affected" in told:
                yield told


def main(directory: Path) -> int:
    """Say what is affected; the result is 1 when anything is, or when there was nothing to hold it against."""
    pins: dict[tuple[str, str], list[Pin]] = {}
    for pin in all_pins():
        pins.setdefault((pin.ecosystem, normal(pin.name)), []).append(pin)
    count, newest, found = 0, "", 0
    for advisory in read(directory):
        count += 1
        newest = max(newest, str(advisory.get("modified", "")))
        for pin in affected(advisory, pins):
            found += 1
            print(f"{pin.purl} ({pin.purpose}): {advisory['id']} {advisory.get('summary', '')}")
    print(
        f"{count:,} advisories, the newest changed at {newest or 'no time'}; {found} of them are about what is pinned"
    )
    return 1 if found or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
