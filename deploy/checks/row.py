"""A row of what `slate doctor` found, and how it is worded."""

from dataclasses import dataclass
from typing import Final, Literal

STALE_S: Final = 60.0
"""A partition that has messages to write and was not written for so long has no worker."""

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it is, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def first_line(error: Exception) -> str:
    """The first line of what an error says, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def numbers(of: list[int]) -> str:
    """Separated by commas."""
    return ", ".join(map(str, of))


def size(count: float) -> str:
    """Bytes with their unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def some(texts: list[str], most: int = 5) -> str:
    """The first few of them, and how many more there are."""
    return "; ".join(texts[:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")
