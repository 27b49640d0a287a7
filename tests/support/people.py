"""Histories of several users in all kinds of message, each with texts of their own; and where such texts are found."""

import asyncio
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis

from connectors.erasure import Erasure
from connectors.settings import Settings
from realtime.simulated import SimulatedEvent

_HOUR_MS = 3_600_000


@dataclass
class PersonsLife:
    """A user, what they did, and the texts that tell of them."""

    user: UUID
    marker: str
    sessions: list[str]
    frames: Path
    events: list[SimulatedEvent] = field(default_factory=list)

    @property
    def needles(self) -> list[str]:
        """Texts that must be nowhere when they are forgotten."""
        return [str(self.user), self.marker, *self.sessions]


def lives(count: int, frames: Path, *, seed: int = 0) -> list[PersonsLife]:
    """Users, the first of whom has been in a session of the second, and shares a picture with them."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        user = UUID(int=chance.getrandbits(128), version=4)
        sessions = [f"sess_{number}_{chance.getrandbits(64):016x}" for _ in range(3)]
        found.append(PersonsLife(user, f"marker{chance.getrandbits(64):016x}", sessions, frames))
    for life in found:
        _live(life, chance)
    first, second = found[0], found[1]
    guest = {"userId": str(first.user), "timestamp": _ago(1.5), "type": "script_generated"}
    script = {"scriptName": f"G{first.marker}", "scriptContent": first.marker, "prompt": first.marker}
    _add(first, f"spark.runtime.unity.guest.{second.sessions[0]}", guest | script)
    _add(first, f"spark.usage.{second.sessions[0]}", {**guest, "model": "guest-model", "tokensPrompt": 5})
    _add(first, f"spark.visit.{second.sessions[0]}", {**guest, "payload": {"text": first.marker}})
    call = {"callId": first.marker, "name": "visit", "status": "success", "args": {"text": first.marker}}
    _add(first, f"spark.function_call.{second.sessions[0]}", {"userId": str(first.user), **call})
    shared = picture(frames, b"shared")
    for life in (first, second):
        _add(life, f"spark.preview.unity.frame.{life.sessions[0]}", {"type": "preview.frame", "frameRef": shared})
    return found


def in_order(found: Iterable[PersonsLife], *, seed: int = 0) -> list[SimulatedEvent]:
    """All events, those of different users in turn."""
    events = [event for life in found for event in life.events]
    random.Random(seed).shuffle(events)
    return events


def picture(directory: Path, content: bytes) -> str:
    """Keep a picture as `connectors.frames` does."""
    digest = hashlib.sha256(content).hexdigest()
    path = directory / digest[:2] / f"{digest[2:34]}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"{digest[:2]}/{digest[2:34]}.png"


def _ago(hours: float) -> int:
    return int((datetime.now(UTC) - timedelta(hours=hours)).timestamp() * 1000)


def _add(life: PersonsLife, subject: str, body: dict[str, Any] | bytes, *, valid: bool = True) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    msg_id = hashlib.sha256(f"{life.marker} {len(life.events)}".encode()).hexdigest()
    refusal = None if valid else "no"
    life.events.append(SimulatedEvent(0, subject, payload, msg_id, "person", msg_id, refusal))


def _live(life: PersonsLife, chance: random.Random) -> None:
    said, quiet, unannounced = life.sessions
    text, user = life.marker, str(life.user)
    for session in (said, quiet):
        start = _ago(3)
        _add(
            life,
            f"spark.session.connected.{session}",
            {"type": "connected", "userId": user, "model": "m", "device": text, "timestamp": start},
        )
        _add(life, f"spark.session.disconnected.{session}", {"type": "disconnected", "timestamp": start + 2 * _HOUR_MS})
    for session in (said, quiet, unannounced):
        for number in range(4):
            at = {"timestamp": _ago(3 - number / 2 - chance.random() / 4)}
            who = at | ({} if session == quiet else {"userId": user})
            model = chance.choice(["gpt-a", "gpt-b"])
            _add(life, f"spark.usage.{session}", who | {"model": model, "tokensPrompt": 7, "costEstimate": 0.25})
            name, status = chance.choice(["apply_patch", "read"]), chance.choice(["success", "failed"])
            call = {"name": name, "status": status, "durationMs": chance.randrange(900), "args": {"text": text}}
            _add(life, f"spark.function_call.{session}", who | call | {"callId": f"c{number}", "error": text})
            if number == 0:
                _add(life, f"spark.function_call.{session}", who | call | {"callId": "c0", "status": "failed"})
            _add(life, f"spark.function_call.{session}", who | {"functionName": "old", "result": {"text": text}})
            _add(life, f"spark.telemetry.{session}", at | {"kind": "frame", "data": {"text": text}})
            elements = [{"kind": "part", "data": {"text": text}, "sessionId": session}, {"kind": 7, "data": text}]
            _add(life, f"spark.telemetry.batch.{session}", at | {"events": elements})
            frame = picture(life.frames, f"{text} {session} {number}".encode())
            ready = {"engine": "unity", "status": "ready", "frameRef": frame, "meta": {"text": text, "cache": "miss"}}
            _add(life, f"spark.preview.unity.frame.{session}", at | ready)
            _add(life, f"spark.preview.unity.failed.{session}", who | {"type": "preview.failed", "error": text})
        script = {"type": "script_generated", "scriptName": f"S{text}", "scriptContent": text, "prompt": text}
        _add(life, f"spark.runtime.unity.done.{session}", who | script)
        _add(life, f"spark.build.unity.started.{session}", who | {"jobId": f"job {text} {session}", "target": text})
        _add(life, f"spark.delta.{session}", who | {"delta": {"text": text}})
        _add(life, f"spark.error.{session}", who | {"error": text})
        _add(life, f"spark.something.of.many.words.{session}", who | {"type": "odd", "payload": [text]})
        _add(life, f"spark.usage.{session}", f"no json {text}".encode(), valid=False)
    _add(life, "spark.usage.sess_unknown", f'{{"userId": "{user.upper()}", "broken": "{text}'.encode(), valid=False)
    lost = {"subject": f"spark.usage.{said}", "payload": {"sessionId": said, "text": text}, "error": text}
    _add(life, "spark.dlq", lost, valid=False)


def texts_of(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Every row of every table there is, as text; bytes are in hexadecimal."""
    tables = connection.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'slate') ORDER BY 1"
    ).fetchall()
    return {
        name: sorted(row[0] for row in connection.execute(f"SELECT t::text FROM {name} AS t".encode()))
        for (name,) in tables
    }


def has(text: str, needles: Iterable[str]) -> bool:
    """Whether a text, or the bytes of which it is the hexadecimal form, holds one of some others."""
    folded = text.lower()
    return any(needle.lower() in folded or _hex(needle) in folded for needle in needles)


def _hex(needle: str) -> str:
    return needle.encode().hex()


def in_stream(settings: Settings) -> list[str]:
    """Every message of the stream, subject and body, as text."""

    async def read() -> list[str]:
        async with Erasure(settings) as stream:
            state = await stream.state()
            return [
                f"{message.subject} {message.payload.decode('utf-8', 'replace')}"
                async for batch in stream.scan(state.first, state.last)
                for message in batch
            ]

    return asyncio.run(read())


def in_redis(settings: Settings) -> Iterator[str]:
    """Every key and what is kept there, as text."""
    with redis.Redis(host=str(settings.redis_host), port=settings.redis_port) as client:
        for key in client.scan_iter():
            yield f"{key!r} {client.dump(key)!r}"
