"""Where settings come from, what several of them are checked for, and what systemd says to a process that it starts.

Only `connectors.settings` reads settings with it.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dotenv import dotenv_values

from connectors.errors import ConfigurationError

SIGNING_KEY: Final = "must be base64 of at least 16 bytes, as `openssl rand -base64 32` makes it"


def is_signing_key(text: str) -> bool:
    """Whether a text is a secret of Standard Webhooks: `SIGNING_KEY`, `whsec_` in front or not."""
    text = text.removeprefix("whsec_")
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True)) >= 16
    except ValueError:
        return False


def sources(files: Sequence[str | Path]) -> list[Mapping[str, str | None]]:
    """The environment and files, strongest first."""
    return [os.environ, *(dotenv_values(file) for file in reversed(files))]


def secret(name: str, sources: Sequence[Mapping[str, str | None]]) -> str | None:
    """The value of a variable, or what is in the file that the variable with _FILE names, of the strongest source.

    An empty file counts as unset, as an empty variable does.

    Raises:
        ConfigurationError: that file cannot be read, or both are set.
    """
    for source in sources:
        value, path = source.get(name), source.get(f"{name}_FILE")
        if value and path:
            raise ConfigurationError(f"{name} and {name}_FILE are both set: unset one of them")
        if value:
            return value.strip()
        if path:
            try:
                return Path(path).read_text("utf-8").strip() or None
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{name}_FILE cannot be read: {error}") from None
    return None


def check_encrypted(url: str, scheme: str, why: str) -> None:
    """Refuse an address that is not encrypted and not this machine's.

    Raises:
        ValueError: saying what it must be.
    """
    parts = urlsplit(url)
    plain = scheme.removesuffix("s")
    if parts.hostname is None or parts.scheme not in (plain, scheme):
        raise ValueError(f"must be {scheme}://host/path")
    if parts.scheme == plain and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"must be {scheme}:// except to this machine: {why}")


class Supervisor(NamedTuple):
    """Who has started this process: the socket of systemd, None for nobody who listens, and its watchdog's seconds."""

    address: str | None = None
    watchdog_s: float | None = None


def supervisor() -> Supervisor:
    """What the environment says of it: these variables are systemd's, which sets them, and no settings of a person."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return Supervisor()
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Supervisor(address, int(microseconds) / 1e6 if ours and microseconds.isdigit() else None)
