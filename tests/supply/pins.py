"""What the lock files pin."""

import base64
import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

REPOSITORY: Final = Path(__file__).parents[2]
LOCKS: Final = {
    "shipped": "deploy/container/requirements.txt",
    "development": "requirements.txt",
    "unity-mcp": "deploy/unity-mcp.txt",
}
"""Lock files of Python's packages by what they are for; a package belongs to the first that has it."""
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;\\]+)((?:.*\\\n)*.*)$", re.MULTILINE)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Pin(NamedTuple):
    """A package of one version. `hashes` are of the files that may be installed, as (algorithm, hexadecimal digits)."""

    ecosystem: str
    name: str
    version: str
    purpose: str
    hashes: tuple[tuple[str, str], ...]
    licence: str | None = None

    @property
    def purl(self) -> str:
        """The package's address as a package URL."""
        return f"pkg:{self.ecosystem}/{self.name.replace('@', '%40')}@{self.version}"


def normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str, purpose: str) -> list[Pin]:
    """The pins of a requirements file with hashes."""
    return [
        Pin("pypi", normal(name), version, purpose, tuple(("SHA-256", one) for one in _HASH.findall(rest)))
        for name, version, rest in _PIN.findall(text)
    ]


def all_pins() -> list[Pin]:
    """Everything that a lock file of this project pins, each package and version once."""
    pins: dict[str, Pin] = {}
    for purpose, path in LOCKS.items():
        for pin in read_lock((REPOSITORY / path).read_text("utf-8"), purpose):
            pins.setdefault(pin.purl, pin)
    packages: dict[str, Any] = json.loads((REPOSITORY / "realtime/api/package-lock.json").read_text("utf-8"))[
        "packages"
    ]
    for path, told in packages.items():
        if path:
            algorithm, _, digest = told["integrity"].partition("-")
            hashes = ((algorithm.upper().replace("SHA", "SHA-"), base64.b64decode(digest).hex()),)
            purpose = "development" if told.get("dev") else "shipped"
            name = path.removeprefix("node_modules/")
            pin = Pin("npm", name, told["version"], purpose, hashes, told.get("license"))
            pins[pin.purl] = pin
    return list(pins.values())
