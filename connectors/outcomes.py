"""What the PostgreSQL sink takes, in shapes: `flows.events` gives them their meaning."""

from collections.abc import Callable
from typing import Any, Protocol

from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.tables import Row


class DeadLetter(Protocol):
    """What is kept of a message that cannot be stored."""

    @property
    def message(self) -> NatsSourceMessage:
        """The message as it came."""

    @property
    def stage(self) -> str:
        """Where it failed."""

    @property
    def code(self) -> str:
        """The kind of fault, one of few."""

    @property
    def reason(self) -> str:
        """What is wrong, in a sentence."""

    @property
    def path(self) -> str:
        """The JSON path of the fault."""

    @property
    def element(self) -> int | None:
        """The index in a batch."""


class Outcomes(Protocol):
    """What became of one batch: rows by table, the identities they claim, dead letters, and the account."""

    batch: NatsBatch
    rows: dict[str, list[Row]]
    ids: list[bytes]
    dead: list[Any]
    stored: int
    duplicate: int
    dead_messages: int

    def skipped(self) -> list[int]:
        """Stream sequences of the messages of which nothing is stored, ascending."""

    def drop_known(self, known: set[bytes]) -> None:
        """Make duplicates of the events whose identity is stored already."""


Rebuild = Callable[[NatsBatch], Outcomes]
"""Outcomes of a part of a batch, from its messages."""
GiveUp = Callable[[NatsBatch, str, str], Outcomes]
"""The outcome of a single message that PostgreSQL refuses, with its SQLSTATE and message."""
