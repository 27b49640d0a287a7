"""Whose a message is: what tells that it is of one user. Pure.

A message is a user's where its session is, or where its `userId` says so. What the contract refuses has neither for
certain, so there it is enough that its bytes name the user or the session.
"""

import re
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from connectors.messages import NatsBatch, NatsSourceMessage
from flows.validate import validate

TELLING: Final = 8
"""Session ids that are shorter are not looked for in the middle of bytes: many a number would be one."""
_TOKEN: Final = re.compile(rb"[\w.-]{%d,}" % TELLING)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


class _Envelope(msgspec.Struct, rename="camel"):
    user_id: object = None
    session_id: object = None
    frame_ref: object = None


_decode = msgspec.json.Decoder(_Envelope).decode


class Person:
    """A user and the sessions that are theirs alone."""

    def __init__(self, user: UUID, sessions: Iterable[str] = ()) -> None:
        self.user = user
        self._name = re.compile(re.escape(str(user)).encode(), re.IGNORECASE)
        self.sessions: set[str] = set()
        self._tokens: set[bytes] = set()
        self._odd: list[bytes] = []
        self.add(sessions)

    def add(self, sessions: Iterable[str]) -> None:
        """Let more sessions be theirs."""
        for one in set(sessions) - self.sessions:
            self.sessions.add(one)
            if len(one) >= TELLING:
                if _PLAIN.fullmatch(one):
                    self._tokens.add(one.encode())
                else:
                    self._odd.append(one.encode("utf-8", "replace"))

    def owns(self, message: NatsSourceMessage) -> bool:
        """Whether a message is theirs."""
        session = session_of(message.subject)
        if session in self.sessions and message.subject != "spark.dlq":
            return True
        if names(message.payload) == self.user:
            return True
        return self.is_in(message.payload) and _is_refused(message)

    def owns_letter(self, subject: str, payload: bytes) -> bool:
        """Whether a dead letter is theirs."""
        return (session_of(subject) in self.sessions and subject != "spark.dlq") or self.is_in(payload)

    def is_in(self, data: bytes) -> bool:
        """Whether bytes name the user or one of the sessions."""
        if self._name.search(data):
            return True
        if self._tokens:
            for token in _TOKEN.findall(data):
                if token in self._tokens or token.rpartition(b".")[2] in self._tokens:
                    return True
        if self._odd and any(one in data for one in self._odd):
            return True
        envelope = _envelope(data) if b"sessionId" in data else None
        return envelope is not None and envelope.session_id in self.sessions


def session_of(subject: str) -> str:
    """The session that a subject names."""
    return subject.rpartition(".")[2]


def names(payload: bytes) -> UUID | None:
    """The user that a payload says it is of."""
    envelope = _envelope(payload)
    if envelope is None or not isinstance(envelope.user_id, str):
        return None
    try:
        return UUID(envelope.user_id)
    except ValueError:
        return None


def frame_of(payload: bytes) -> str | None:
    """The picture that a payload refers to."""
    envelope = _envelope(payload) if b"frameRef" in payload else None
    return envelope.frame_ref if envelope is not None and isinstance(envelope.frame_ref, str) else None


def _envelope(payload: bytes) -> _Envelope | None:
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _is_refused(message: NatsSourceMessage) -> bool:
    return bool(validate(NatsBatch("", 0, message.sequence - 1, message.sequence, [message])).dead)
