"""Certificates for servers of a test, made by the script that operators use."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import need_program

_SCRIPT = Path(__file__).parents[2] / "deploy" / "tls" / "certificates.sh"
HERE = "localhost,127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """Files of a server: what it shows, and its key (mode 0600)."""

    pem: Path
    key: Path


class Authority:
    """An authority in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        need_program("openssl", "openssl")
        self._directory = directory
        self.file = directory / "ca.pem"
        self.issue("client")

    def issue(self, name: str, hosts: str = HERE, *, days: int = 90) -> Certificate:
        """A certificate for a server, or a new one in the place of the last."""
        subprocess.run([_SCRIPT, self._directory, name, hosts, str(days)], check=True, capture_output=True)
        return Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
