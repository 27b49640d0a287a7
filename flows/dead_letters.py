"""Dead letters come back: they are found by filter, and replayed through the stream and the same validation.

A replayed letter is published to its subject again with the identity and the time of the original in headers, so
it is stored once however often it is replayed, and every reader of the stream sees it. It is marked once JetStream
has acknowledged it; a kill in between repeats the publication, not the event.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import class_row

from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.publisher import Publisher
from connectors.settings import Settings
from connectors.sql import read
from flows.events import EVENT_ID_HEADER, EVENT_TIME_HEADER, REPLAY_HEADER, Refused, jetstream_identity
from flows.payloads import jetstream_time
from flows.validate import validate

_PAGE: Final = 1000
_NULL: Final = msgspec.Raw(b"null")


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `slate.dead_letters`."""

    id: int
    received_at: datetime
    stage: str
    code: str
    reason: str
    path: str
    subject: str
    stream: str
    seq: int
    stored_at: datetime
    element: int | None
    payload: bytes
    headers: bytes
    replayed_at: datetime | None

    @property
    def message(self) -> NatsSourceMessage:
        """The message as it came."""
        stored_at = int(self.stored_at.timestamp() * 1_000_000) * 1000
        return NatsSourceMessage(self.subject, self.payload, self.seq, stored_at, self.headers)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; None takes all.

    `subject` may hold NATS wildcards, `reason` is part of the reason in any case of letters. Times are of receipt.
    """

    ids: Sequence[int] | None = None
    stage: str | None = None
    code: str | None = None
    reason: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool = False


class Publication(msgspec.Struct, frozen=True):
    """What is published when a letter is replayed."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    msg_id: str


class Replay(msgspec.Struct):
    """What a replay did: letters published, and those that cannot be, with the reason of each."""

    published: int = 0
    impossible: list[tuple[int, str]] = msgspec.field(default_factory=list)


def find(settings: Settings, which: Filter, limit: int | None = None) -> Iterator[Letter]:
    """The letters that a filter takes, oldest first, a page at a time.

    Raises:
        psycopg.Error: the database cannot be read.
    """
    parameters: dict[str, Any] = msgspec.structs.asdict(which)
    parameters["ids"] = list(which.ids) if which.ids is not None else None
    parameters["subject"] = _pattern(which.subject)
    after = 0
    with psycopg.connect(**settings.dsn(application_name="slate-dead-letters"), autocommit=True) as connection:  # type: ignore[arg-type]
        cursor = connection.cursor(row_factory=class_row(Letter))
        while limit is None or limit > 0:
            page = _PAGE if limit is None else min(_PAGE, limit)
            letters = cursor.execute(
                read("dead_letters/find.sql"), {**parameters, "after": after, "limit": page}
            ).fetchall()
            yield from letters
            if len(letters) < page:
                return
            after = letters[-1].id
            if limit is not None:
                limit -= len(letters)


def publication(letter: Letter) -> Publication:
    """What to publish so that a letter comes again as itself.

    Raises:
        Refused: it cannot: what came on `spark.dlq` names no subject, or the element is not in the batch.
    """
    message = letter.message
    try:
        identity = jetstream_identity(message) or f"{letter.stream}:{letter.seq}"
    except Refused:
        identity = f"{letter.stream}:{letter.seq}"
    subject, payload = letter.subject, letter.payload
    if letter.stage == "publisher":
        subject, payload = _undelivered(payload)
    elif letter.element is not None:
        subject, payload, identity = _element(letter, identity)
    return Publication(
        subject,
        payload,
        {
            EVENT_ID_HEADER: identity,
            EVENT_TIME_HEADER: str(jetstream_time(message)),
            REPLAY_HEADER: str(letter.id),
        },
        f"slate-replay:{letter.stream}:{letter.id}",
    )


def verdict(letter: Letter) -> str:
    """What a replay would come to now: `stored`, or why not."""
    try:
        plan = publication(letter)
    except Refused as refused:
        return f"impossible: {refused.reason}"
    block = "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
    message = NatsSourceMessage(
        plan.subject, plan.payload, letter.seq, letter.message.stored_at, f"NATS/1.0\r\n{block}\r\n".encode()
    )
    outcomes = validate(NatsBatch(letter.stream, 0, 0, letter.seq, [message]))
    return outcomes.dead[0].reason if outcomes.dead else "stored"


async def replay(settings: Settings, letters: Iterable[Letter], on_progress: Callable[[], None]) -> Replay:
    """Publish letters again and mark them; `on_progress` is called for each.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
        PublishError: it stopped acknowledging; what was acknowledged before is marked.
    """
    report = Replay()
    sent: list[int] = []
    async with await Publisher.connect(settings, name="slate-replay") as publisher:
        for letter in letters:
            try:
                plan = publication(letter)
            except Refused as refused:
                report.impossible.append((letter.id, refused.reason))
            else:
                await publisher.publish(plan.subject, plan.payload, msg_id=plan.msg_id, headers=plan.headers)
                sent.append(letter.id)
            on_progress()
            if len(sent) >= _PAGE:
                await publisher.flush()
                _mark(settings, sent)
                report.published += len(sent)
                sent.clear()
        await publisher.flush()
    _mark(settings, sent)
    report.published += len(sent)
    return report


def _mark(settings: Settings, ids: list[int]) -> None:
    if ids:
        with psycopg.connect(**settings.dsn(application_name="slate-dead-letters"), autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(read("dead_letters/mark.sql"), {"ids": ids})


def _undelivered(payload: bytes) -> tuple[str, bytes]:
    """Subject and payload of what a publisher could not deliver."""
    try:
        fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        subject = msgspec.json.decode(fields["subject"], type=str)
        inner = bytes(fields["payload"])
        if inner.startswith(b'"'):
            inner = msgspec.json.decode(inner, type=str).encode()
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError):
        raise Refused("publisher", "publisher", "it names no subject and payload to publish") from None
    if not re.fullmatch(r"spark(\.[^\s.*>]+)+", subject) or subject == "spark.dlq":
        raise Refused("publisher", "publisher", f"its subject {subject[:100]!r} is not one to publish on")
    return subject, inner


def _element(letter: Letter, identity: str) -> tuple[str, bytes, str]:
    """One element of a telemetry batch, as telemetry of its own."""
    assert letter.element is not None  # noqa: S101 - the caller asked
    try:
        envelope = msgspec.json.decode(letter.payload, type=dict[str, msgspec.Raw])
        raw = msgspec.json.decode(envelope["events"], type=list[msgspec.Raw])[0]  # the letter keeps no other
        identity = msgspec.json.decode(envelope.get("eventId", _NULL), type=str | None) or identity
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        own = msgspec.json.decode(fields.get("sessionId", _NULL), type=str | None)
        if bytes(fields.get("timestamp", _NULL)) == b"null" and "timestamp" in envelope:
            raw = msgspec.Raw(msgspec.json.encode(fields | {"timestamp": envelope["timestamp"]}))
    except (msgspec.DecodeError, KeyError, IndexError, UnicodeDecodeError, RecursionError):
        raise Refused("decode", "not_object", "the element is not an object that could be telemetry") from None
    session = own if own and re.fullmatch(r"[^\s.*>]+", own) else letter.subject.rpartition(".")[2]
    return f"spark.telemetry.{session}", bytes(raw), f"{identity}:{letter.element}"


def _pattern(subject: str | None) -> str | None:
    """A subject with NATS wildcards as a regular expression of PostgreSQL."""
    if subject is None:
        return None
    words = [r"[^.]+" if word == "*" else r".+" if word == ">" else re.escape(word) for word in subject.split(".")]
    return "^" + r"\.".join(words) + "$"
