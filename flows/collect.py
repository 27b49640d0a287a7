"""The outcomes of one batch while they are collected, and what every handler of a kind of message asks."""

from collections.abc import Callable
from typing import Final

from connectors.messages import NatsSourceMessage
from flows.events import DeadLetter, Envelope, Refused, Route, identity_key, jetstream_identity
from flows.payloads import explain, user_uuid

ENVELOPE: Final = frozenset(("sessionId", "timestamp", "eventId", "userId", "projectId"))
"""Fields that every payload may have."""


class Collected:
    """The outcomes of one batch while they are collected: what is told of the message at `index` goes to it."""

    __slots__ = (
        "dead",
        "dead_owners",
        "fields",
        "index",
        "owners",
        "partly_dead",
        "repeated",
        "rows",
        "settled",
        "stored",
        "stream",
    )

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.index = 0
        self.fields: dict[str, object] = {}  # of the message at `index`; none where an element may be to blame
        self.rows: dict[str, list[tuple[object, ...]]] = {}
        self.owners: dict[bytes, int] = {}
        self.dead: list[DeadLetter] = []
        self.dead_owners: list[int] = []
        self.settled: set[int] = set()
        self.repeated: set[int] = set()
        self.stored = 0
        self.partly_dead = 0  # dead letters that are not the whole of their message

    def refuse(self, message: NatsSourceMessage, error: Exception, element: int | None = None) -> None:
        """Make a dead letter of the message, or of one element of it."""
        why = error if isinstance(error, Refused) else explain(error)
        path = why.path if element is None else f"$.events[{element}]{why.path[1:]}"
        self.keep(DeadLetter(message, why.stage, why.code, why.reason, path, element))

    def keep(self, letter: DeadLetter) -> None:
        """Add a dead letter."""
        self.dead.append(letter)
        self.dead_owners.append(self.index)

    def claim(self, identity: str | None) -> tuple[bytes | None, bool]:
        """The key for an identity, and whether it is new in this batch; a position in the stream always is."""
        if identity is None:
            return None, True
        key = identity_key(identity)
        if key in self.owners:
            self.repeated.add(self.index)
            return key, False
        self.owners[key] = self.index
        return key, True

    def row(self, table: str, row: tuple[object, ...]) -> None:
        """Add a row, in the column order of `flows.rows`, its identity's key in front."""
        try:
            self.rows[table].append(row)
        except KeyError:
            self.rows[table] = [row]


Handler = Callable[[Collected, Route, NatsSourceMessage], None]
"""Decodes a message of one kind, checks it, and adds what becomes of it; refuses it by raising."""


def identity_of(event: Envelope, message: NatsSourceMessage) -> str | None:
    """The identity that an event claims; None for its place in the stream.

    Raises:
        Refused: its header is not one.
    """
    return event.event_id or jetstream_identity(message)


def check_session(event: Envelope, route: Route) -> None:
    """Hold the payload's session against the subject's.

    Raises:
        Refused: they contradict each other.
    """
    if event.session_id is not None and event.session_id != route.session_id:
        raise Refused(
            "validate",
            "session",
            f"sessionId {event.session_id[:50]!r} contradicts the subject's {route.session_id[:50]!r}",
            "$.sessionId",
        )


def check_owner(event: Envelope) -> None:
    """For the kinds of event whose tables have no column for it: a wrong id is wrong there, too.

    Raises:
        Refused: user or project is no UUID.
    """
    if event.user_id is not None:
        user_uuid(event.user_id, "$.userId")
    if event.project_id is not None:
        user_uuid(event.project_id, "$.projectId")
