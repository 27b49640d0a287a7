"""What a session tells while it goes on."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The model says a little more."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model calls a tool; of code among the arguments only length and hash are told."""

    call_id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over; `error` is None if it was done."""

    call_id: str
    name: str
    output: dict[str, Any]
    error: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was lost or is renewed; what was said of the present answer will be said again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Something does not work. `fatal`: the session is of no more use; `retry_after_s`: when to try again, if told."""

    code: str
    message: str
    fatal: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """All that came of one input is over."""

    status: Literal["completed", "incomplete", "cancelled", "failed"]
    text: str
    """The model's last words."""
    calls: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session is over; nothing follows."""


Happening = TextDelta | CallStarted | CallEnded | Reconnected | Failed | TurnEnded | Disconnected
