"""What a row of the table of cases is: messages in a session's name, and every row that must come of them."""

import base64
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

STREAM = "SPARK"
AT = datetime(2025, 3, 14, 15, 9, 26, 535_000, UTC)
USER = "6f1c2a4e-58f1-4d0c-9a59-3b7f2f0c1d11"
PROJECT = "0e9d8c7b-6a59-4837-a261-504f3e2d1c0b"
ABSENT = object()
"""A field that is not sent."""

Row = tuple[Any, ...]


def at(seconds: float = 0.0) -> datetime:
    return AT + timedelta(seconds=seconds)


class Like:
    """Equal to a text that a pattern is found in."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.search(self._pattern, other) is not None

    def __repr__(self) -> str:
        return f"like {self._pattern!r}"

    __hash__ = None  # type: ignore[assignment]


class JustNow:
    """Equal to a time of this test run: when JetStream stored the message."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datetime) and abs(datetime.now(UTC) - other) < timedelta(minutes=10)

    def __repr__(self) -> str:
        return "just now"

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Message:
    """One publication. Session id and event time are added to subject and fields, unless `whole` or said."""

    subject: str
    fields: dict[str, Any] | bytes
    seconds: float = 0.0
    msg_id: str | None = None
    whole: bool = False

    def line(self, session_id: str) -> dict[str, Any]:
        """What publish.mjs reads."""
        subject = self.subject if self.whole else f"{self.subject}.{session_id}"
        line: dict[str, Any] = {"subject": subject, "msgId": self.msg_id}
        if isinstance(self.fields, bytes):
            return line | {"base64": base64.b64encode(self.fields).decode()}
        body = {"sessionId": session_id, "timestamp": int(at(self.seconds).timestamp() * 1000), **self.fields}
        return line | {"json": {name: value for name, value in body.items() if value is not ABSENT}}


@dataclass(frozen=True)
class Case:
    """Messages, and the rows that they leave in each table; a table that is not named stays empty.

    The case's name is its session id.
    """

    name: str
    messages: list[Message]
    sessions: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    telemetry: list[Row] = field(default_factory=list)
    usage: list[Row] = field(default_factory=list)
    previews: list[Row] = field(default_factory=list)
    scripts: list[Row] = field(default_factory=list)
    builds: list[Row] = field(default_factory=list)
    dead: list[Row] = field(default_factory=list)


READS = {
    "sessions": "SELECT user_id::text, model, mode, started_at, ended_at, meta FROM spark_sessions"
    " WHERE session_id = %(sid)s",
    "events": "SELECT type, ts, user_id::text, project_id::text, payload FROM spark_events"
    " WHERE session_id = %(sid)s ORDER BY ts, type",
    "calls": "SELECT call_id, name, ts, duration_ms, status, error, args, output FROM spark_function_calls"
    " WHERE session_id = %(sid)s ORDER BY ts",
    "telemetry": "SELECT kind, ts, data FROM spark_telemetry WHERE session_id = %(sid)s ORDER BY ts",
    "usage": "SELECT ts, model, tokens_prompt, tokens_completion, cost_estimate FROM spark_usage"
    " WHERE session_id = %(sid)s ORDER BY ts",
    "previews": "SELECT engine, ts, status, frame_ref, meta FROM spark_previews WHERE session_id = %(sid)s ORDER BY ts",
    "scripts": "SELECT script_name, script_content, prompt, created_at FROM spark_generated_scripts"
    " WHERE session_id = %(sid)s ORDER BY created_at",
    "builds": "SELECT id, build_target, status, created_at, updated_at FROM spark_build_jobs"
    " WHERE session_id = %(sid)s ORDER BY id",
    "dead": "SELECT stage, reason, path, element FROM slate.dead_letters"
    " WHERE subject LIKE '%%.' || %(sid)s ORDER BY seq, element",
}
"""How each table is read back for one session."""


OWNER = {"userId": USER, "projectId": PROJECT}
