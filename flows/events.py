"""The contract: subjects, payloads and identity of SPARK events, as models, and what can become of a message.

Payloads are `msgspec.Struct` models (ADR 2 says why): one decode checks types, ranges and enumerations in C and
leaves JSON columns as the bytes that were published, so that no number loses a digit on its way to the database.
"""

import hashlib
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Raw

from connectors.messages import NatsBatch, NatsSourceMessage, header_key

MAX_PAYLOAD: Final = 1 << 20
"""Largest payload, bytes."""
MAX_IDENTIFIER: Final = 255
"""Longest id, name or type, characters: two of them must fit in one index entry of PostgreSQL (2,704 bytes)."""
MAX_REASON: Final = 500
"""Longest reason that is told, characters: some quote the payload, and the payload is kept anyway."""
MAX_DEPTH: Final = 256
"""Deepest nesting of a payload: well within the recursion limits of Python and of PostgreSQL's jsonb."""
MAX_SCALE: Final = 16_383
"""Most decimal places of a number in PostgreSQL, in a JSON column too (`numeric`, manual section 8.1.2)."""
EARLIEST_MS: Final = 1_577_836_800_000
"""Earliest event time: 2020-01-01 UTC, epoch milliseconds."""
MAX_AHEAD_MS: Final = 300_000
"""How far event time may be ahead of the time at which JetStream stored the message, milliseconds."""

EVENT_ID_HEADER: Final = "Slate-Event-Id"
"""Header of a replayed dead letter: the identity of the original."""
EVENT_TIME_HEADER: Final = "Slate-Event-Time"
"""Header of a replayed dead letter: when JetStream stored the original, epoch milliseconds."""
REPLAY_HEADER: Final = "Slate-Replay"
"""Header of a replayed dead letter: its id."""
ENGINES: Final = frozenset(("unity", "godot", "pico8", "gamemaker", "rpgmaker", "construct", "renpy"))

Identifier = Annotated[str, Meta(min_length=1, max_length=MAX_IDENTIFIER)]
Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
ABSENT: Final = Raw()
"""A JSON field that was not sent; a falsy value."""


class Kind(Enum):
    """Which row of the contract a subject belongs to."""

    CONNECTED = "session.connected"
    DISCONNECTED = "session.disconnected"
    FUNCTION_CALL = "function_call"
    TELEMETRY = "telemetry"
    TELEMETRY_BATCH = "telemetry.batch"
    USAGE = "usage"
    PREVIEW = "preview"
    RUNTIME = "runtime"
    BUILD = "build"
    DELTA = "delta"
    ERROR = "error"
    OTHER = "other"
    DLQ = "dlq"


class Route(msgspec.Struct, frozen=True):
    """A parsed subject. `engine` and `step` are empty where the subject has none."""

    kind: Kind
    session_id: str
    engine: str = ""
    step: str = ""


class Refused(Exception):  # noqa: N818 - an outcome, not an error
    """A message breaks the contract.

    `stage` is where it failed, `code` the kind of fault in one word, `reason` what is wrong in a sentence, and
    `path` a JSON path such as `$.events[3].kind`, empty for the whole.
    """

    def __init__(self, stage: str, code: str, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.stage = stage
        self.code = code
        self.reason = reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
        self.path = path


class DeadLetter(msgspec.Struct, frozen=True):
    """What could not be stored: the message as it came, and why.

    `stage` is where it failed: `decode` (not JSON), `subject`, `validate` (the contract), `store` (PostgreSQL
    refused it) or `publisher` (it came on `spark.dlq`). `code` is the kind of fault, one of few. `element` is its
    index when one element of a batch failed; `message` then holds that element only.
    """

    message: NatsSourceMessage
    stage: str
    code: str
    reason: str
    path: str = ""
    element: int | None = None


class Envelope(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """What every payload may carry."""

    session_id: Identifier | None = None
    timestamp: int | float | None = None
    event_id: Identifier | None = None
    user_id: str | None = None
    project_id: str | None = None


class Session(Envelope, frozen=True, gc=False):
    """`spark.session.connected.{sid}` and `spark.session.disconnected.{sid}`."""

    type: Literal["connected", "disconnected"] | None = None
    model: Identifier | None = None
    mode: Literal["creative", "deterministic", "hybrid"] | None = None
    payload: Raw = ABSENT


class FunctionCall(Envelope, frozen=True, gc=False):
    """`spark.function_call.{sid}`, both spellings: `name` + `status`, or `functionName` + `result`."""

    type: Literal["function_call"] | None = None
    call_id: Identifier | None = None
    name: Identifier | None = None
    function_name: Identifier | None = None
    status: Literal["success", "failed"] | None = None
    duration_ms: Count | None = None
    error: Raw = ABSENT
    args: Raw = ABSENT
    output: Raw = ABSENT
    result: Raw = ABSENT


class FunctionResult(msgspec.Struct, frozen=True, gc=False):
    """The part of an older function call's `result` that says how it ended."""

    success: Raw = ABSENT
    error: Raw = ABSENT


class Telemetry(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.telemetry.{sid}`, and each element of a batch."""

    kind: Identifier
    data: Raw


class TelemetryBatch(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.telemetry.batch.{sid}`."""

    events: list[Raw]


class Usage(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.usage.{sid}`: tokens and their cost in US dollars."""

    model: Identifier
    tokens_prompt: Count = 0
    tokens_completion: Count = 0
    cost_estimate: Decimal = Decimal(0)


class Preview(Envelope, frozen=True, gc=False):
    """`spark.preview.{engine}.{step}.{sid}`: `engine` + `status`, or only `type`."""

    type: Identifier | None = None
    engine: Literal["unity", "godot", "pico8", "gamemaker", "rpgmaker", "construct", "renpy"] | None = None
    status: Literal["idle", "loading", "ready", "error"] | None = None
    frame_ref: str | None = None
    meta: Raw = ABSENT
    payload: Raw = ABSENT


class Runtime(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.runtime.{engine}.{step}.{sid}`: a type, other fields flat, at times a whole script."""

    type: Identifier
    payload: Raw = ABSENT
    script_name: Identifier | None = None
    script_content: str | None = None
    prompt: str | None = None


class Build(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.build.{engine}.{step}.{sid}`: one step of a build job."""

    type: Identifier | None = None
    job_id: Identifier
    target: Identifier | None = None
    status: Literal["queued", "building", "completed", "failed"] | None = None
    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    payload: Raw = ABSENT


class Delta(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.delta.{sid}`."""

    type: Literal["delta"] | None = None
    delta: Raw
    payload: Raw = ABSENT


class ConnectionFailure(Envelope, frozen=True, gc=False, kw_only=True):
    """`spark.error.{sid}`."""

    type: Literal["connection_error"] | None = None
    error: Raw
    payload: Raw = ABSENT


class Other(Envelope, frozen=True, gc=False, kw_only=True):
    """Any other `spark.>`."""

    type: Identifier
    payload: Raw = ABSENT


PREVIEW_STATUS: Final = {"started": "loading", "frame": "ready", "completed": "ready", "failed": "error"}
BUILD_STATUS: Final = {
    "started": "building",
    "progress": "building",
    "completed": "completed",
    "failed": "failed",
    "timeout": "failed",
}
_THREE: Final = {
    "function_call": Kind.FUNCTION_CALL,
    "telemetry": Kind.TELEMETRY,
    "usage": Kind.USAGE,
    "delta": Kind.DELTA,
    "error": Kind.ERROR,
}
_FOUR: Final = {
    ("session", "connected"): Kind.CONNECTED,
    ("session", "disconnected"): Kind.DISCONNECTED,
    ("telemetry", "batch"): Kind.TELEMETRY_BATCH,
}
_FIVE: Final = {"preview": Kind.PREVIEW, "runtime": Kind.RUNTIME, "build": Kind.BUILD}


def parse_subject(subject: str) -> Route:
    """Read kind, session, engine and step off a subject.

    Raises:
        Refused: the subject names an unknown engine or build step, or its session id is too long.
    """
    tokens = subject.split(".")
    session_id = tokens[-1]
    if subject == "spark.dlq":
        return Route(Kind.DLQ, "")
    if len(tokens) < 2 or tokens[0] != "spark":
        raise Refused("subject", "foreign", f"the subject {subject[:100]!r} is outside spark.>")
    if not 0 < len(session_id) <= MAX_IDENTIFIER:
        raise Refused(
            "subject", "too_long", f"the subject's session id has {len(session_id)} characters, more than 255"
        )
    if "\ufffd" in subject:  # how the reader shows bytes that are no text
        raise Refused("subject", "not_utf8", "the subject is not UTF-8")
    if "\0" in subject:
        raise Refused("subject", "nul", "the subject holds a NUL byte")
    kind = Kind.OTHER
    engine = step = ""
    match len(tokens):
        case 3:
            kind = _THREE.get(tokens[1], Kind.OTHER)
        case 4:
            kind = _FOUR.get((tokens[1], tokens[2]), Kind.OTHER)
        case 5:
            kind = _FIVE.get(tokens[1], Kind.OTHER)
            if kind is not Kind.OTHER:
                engine, step = tokens[2], tokens[3]
    if engine not in ENGINES and kind in _FIVE.values():
        raise Refused(
            "subject",
            "unknown_value",
            f"unknown engine {engine[:50]!r}; known are {', '.join(sorted(ENGINES))}",
        )
    if kind is Kind.BUILD and step not in BUILD_STATUS:
        raise Refused(
            "subject",
            "unknown_value",
            f"unknown build step {step[:50]!r}; known are {', '.join(BUILD_STATUS)}",
        )
    return Route(kind, session_id, engine, step)


@lru_cache(maxsize=16_384)
def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID in its 36-character form.

    Raises:
        ValueError: it is not one.
    """
    uuid = UUID(text)
    if str(uuid) != text.lower():  # UUID reads more than the standard writes: braces, underscores, foreign digits
        raise ValueError(text)
    return uuid.bytes


def identity_key(identity: str) -> bytes:
    """The 16 bytes under which an event id is kept in `slate.event_ids` (BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()


_EVENT_ID: Final = header_key(EVENT_ID_HEADER)
_MSG_ID: Final = header_key("Nats-Msg-Id")
_MAX_INDEX: Final = 8  # characters that an element of a batch adds to the identity of the batch


def jetstream_identity(message: NatsSourceMessage) -> str | None:
    """The id that a message has where its payload gives none: its `Nats-Msg-Id`, else None (its position).

    A replayed dead letter carries the identity of the original in `Slate-Event-Id`.

    Raises:
        Refused: the header is not UTF-8, or too long.
    """
    if not message.headers:
        return None
    replayed = message.header(_EVENT_ID)
    raw = replayed or message.header(_MSG_ID)
    if raw is None:
        return None
    longest = MAX_IDENTIFIER + _MAX_INDEX if replayed else MAX_IDENTIFIER
    try:
        identity = raw.decode()
    except UnicodeDecodeError:
        raise Refused("validate", "identity", "the Nats-Msg-Id header is not UTF-8") from None
    if len(identity) > longest or "\0" in identity:
        raise Refused(
            "validate", "identity", "the Nats-Msg-Id header is longer than 255 characters or holds a NUL byte"
        )
    return identity or None


Rows = dict[str, list[tuple[object, ...]]]


class Outcomes(msgspec.Struct):
    """What became of one batch: the rows to store, the identities they claim, and the dead letters.

    Each row is a tuple whose first element is its event's identity key, or None for an event identified by its
    position in the stream, which cannot come twice. `owners[i]` is the index of the message that `ids[i]` came
    from, `dead_owners[i]` that of `dead[i]`; `settled` are messages of which a part is stored whatever its other
    identities turn out to be, `repeated` those of which a part was stored before. Counts are of messages:
    read = stored + duplicate + dead_messages.
    """

    batch: NatsBatch
    rows: Rows
    ids: list[bytes]
    owners: list[int]
    dead: list[DeadLetter]
    dead_owners: list[int]
    settled: set[int]
    repeated: set[int]
    stored: int = 0
    duplicate: int = 0
    dead_messages: int = 0

    def skipped(self) -> list[int]:
        """Stream sequences of the messages of which nothing is stored, ascending."""
        if not self.repeated and not self.dead_owners:
            return []
        gone = self.repeated.union(self.dead_owners).difference(self.owners, self.settled)
        return [self.batch.messages[index].sequence for index in sorted(gone)]

    def drop_known(self, known: set[bytes]) -> None:
        """Make duplicates of the events whose identity is in `known`."""
        gone = known.intersection(self.ids)
        if not gone:
            return
        claims = list(zip(self.ids, self.owners, strict=True))
        dropped = {owner for key, owner in claims if key in gone}
        kept = [(key, owner) for key, owner in claims if key not in gone]
        self.repeated |= dropped
        dropped -= {owner for _, owner in kept} | self.settled
        dead = len(dropped.intersection(self.dead_owners))
        self.stored -= len(dropped)
        self.dead_messages += dead
        self.duplicate += len(dropped) - dead
        self.ids = [key for key, _ in kept]
        self.owners = [owner for _, owner in kept]
        self.rows = {table: [row for row in rows if row[0] not in gone] for table, rows in self.rows.items()}
