"""What the reads of `realtime.queries` return, as structs that msgspec makes JSON and JSON schemas of."""

from datetime import date, datetime
from decimal import Decimal
from typing import Generic, Literal, TypeVar
from uuid import UUID

from msgspec import Raw, Struct

Signal = Literal["calls", "usage_by_model", "usage_by_user", "events", "dead_letters", "ingest_delay"]
Status = Literal["success", "failed"]
Kind = Literal["event", "call", "script", "preview", "build", "usage"]
T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """A part of a list. `next` is the cursor of the next part, None at the end."""

    items: list[T]
    next: str | None


class Session(Struct, frozen=True, rename="camel", kw_only=True):
    """A session; `ended_at` is None while it is active."""

    id: UUID
    session_id: str
    user_id: UUID | None
    model: str
    mode: Literal["creative", "deterministic", "hybrid"]
    started_at: datetime | None
    ended_at: datetime | None


class SessionTotals(Session, frozen=True, rename="camel", kw_only=True):
    """A session and what it comes to; cost in US dollars, `errors` are failed calls, `built_at` when a build was last
    heard of. Whatever happens in it changes one of these."""

    meta: Raw
    tokens_prompt: int
    tokens_completion: int
    cost: Decimal
    calls: int
    errors: int
    scripts: int
    previews: int
    builds: int
    events: int
    built_at: datetime | None


class Moment(Struct, frozen=True, rename="camel", kw_only=True):
    """Something that happened in a session. `title` is the type of an event, the function, script, engine, target or
    model; `detail` depends on the kind, and is null, or a part of it is, where that is above 16 KiB."""

    ts: datetime
    kind: Kind
    id: str
    title: str
    status: str | None
    detail: Raw

    @property
    def place(self) -> str:
        """What tells it from others of the same time."""
        return f"{self.kind}:{self.id}"


class FunctionCall(Struct, frozen=True, rename="camel", kw_only=True):
    """A function call; duration in milliseconds."""

    id: int
    session_id: str
    call_id: str
    name: str
    ts: datetime
    duration_ms: int | None
    status: Status
    error: str | None


class Script(Struct, frozen=True, rename="camel", kw_only=True):
    """A script without its content, which has so many bytes."""

    id: int
    session_id: str
    script_name: str
    prompt: str | None
    bytes: int
    created_at: datetime


class WholeScript(Script, frozen=True, rename="camel", kw_only=True):
    """A script with its content."""

    script_content: str


class Preview(Struct, frozen=True, rename="camel", kw_only=True):
    """A step of a preview."""

    id: int
    session_id: str
    engine: str
    ts: datetime
    status: Literal["idle", "loading", "ready", "error"]
    frame_ref: str | None
    meta: Raw


class Build(Struct, frozen=True, rename="camel", kw_only=True):
    """A build job."""

    id: str
    session_id: str
    build_target: str | None
    status: Literal["queued", "building", "completed", "failed"]
    created_at: datetime
    updated_at: datetime


class Usage(Struct, frozen=True, rename="camel", kw_only=True):
    """Tokens and cost, US dollars, of a day (UTC), a model and a user; None where it was not asked by that."""

    day: date | None
    model: str | None
    user_id: UUID | None
    tokens_prompt: int
    tokens_completion: int
    cost: Decimal


class ErrorRate(Struct, frozen=True, rename="camel", kw_only=True):
    """Outcomes of a day's (UTC) calls of a function; the rate is 0 to 1."""

    day: date
    name: str
    success_count: int
    error_count: int
    error_rate: Decimal


class Window(Struct, frozen=True, rename="camel", kw_only=True):
    """A row of `slate.windows`; quantiles to 1 %, in milliseconds, None where nothing was measured."""

    start: datetime
    seconds: int
    signal: Signal
    key: str
    status: str
    count: int
    tokens_prompt: int
    tokens_completion: int
    cost: Decimal
    late: int
    closed_at: datetime | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Minute(Struct, frozen=True, rename="camel", kw_only=True):
    """A minute of event time: calls, and the quantiles of their durations as in `Window`."""

    start: datetime
    calls: int
    errors: int
    tokens: int
    cost: Decimal
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Alert(Struct, frozen=True, rename="camel", kw_only=True):
    """An alert that fires or is about to."""

    rule: str
    fingerprint: str
    status: Literal["pending", "firing"]
    labels: Raw
    value: float | None
    samples: int
    reason: str
    since: datetime
    starts_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None


class AlertChange(Struct, frozen=True, rename="camel", kw_only=True):
    """An alert that began or ended."""

    id: int
    rule: str
    fingerprint: str
    state: Literal["firing", "resolved"]
    labels: Raw
    annotations: Raw
    value: float | None
    reason: str
    starts_at: datetime
    ends_at: datetime | None
    created_at: datetime


class DeadLetter(Struct, frozen=True, rename="camel", kw_only=True):
    """A dead letter without its body."""

    id: int
    received_at: datetime
    stage: str
    code: str
    reason: str
    path: str
    subject: str
    stream: str
    partition: int
    seq: int
    stored_at: datetime
    element: int | None
    replayed_at: datetime | None


class DeadLetterCount(Struct, frozen=True, rename="camel", kw_only=True):
    """Dead letters of a stage and kind of fault that wait for a replay."""

    stage: str
    code: str
    waiting: int


class Figures(Struct, frozen=True, rename="camel", kw_only=True):
    """Figures of today (UTC): tokens, cost in US dollars, calls, and of those failed ones (`errors`) and their share.

    Calls per minute are those of the last five whole minutes, quantiles of durations, in milliseconds, those of the
    last hour. `alerts` fire, `dead_letters` wait for a replay (None for a user); `behind` messages are stored and not
    in these figures yet, and `stored_at` is when the last one was.
    """

    tokens_prompt: int
    tokens_completion: int
    cost: Decimal
    calls: int
    errors: int
    error_rate: Decimal | None
    calls_per_minute: Decimal
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    active_sessions: int
    alerts: int
    dead_letters: int | None
    stored_at: datetime | None
    behind: int
