"""Clocks: events too far ahead of ours are refused, so ours must agree with those of the servers."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import nats.errors
import psycopg
import redis

from connectors.errors import SlateError
from connectors.jetstream import connect
from connectors.settings import Settings
from deploy.checks.postgres import connect_postgres, query
from deploy.checks.redis import redis_client
from deploy.checks.row import Check, State

WARN_S: Final = 2.0
FAIL_S: Final = 60.0
"""Seconds between two clocks that are reported; an event may be five minutes ahead."""


def check_clock(settings: Settings) -> Iterator[Check]:
    """How far the clocks of the servers are from that of this machine; those that do not answer are left out."""
    found = {}
    for name, ask in (("PostgreSQL", _postgres), ("NATS", _nats), ("Redis", _redis)):
        try:
            begin = time.time()
            theirs = ask(settings)
            end = time.time()
        except (SlateError, psycopg.Error, nats.errors.Error, redis.RedisError, TimeoutError, OSError):
            continue
        if theirs is not None:
            # anywhere between the two is possible: only what is outside of both is known to be wrong
            found[name] = min(theirs - begin, 0.0) + max(theirs - end, 0.0)
    if not found:
        return
    worst = max(map(abs, found.values()))
    state: State = "fail" if worst >= FAIL_S else "warn" if worst >= WARN_S else "ok"
    told = ", ".join(f"{name} {difference:+.1f} s" for name, difference in found.items())
    remedy = (
        "" if state == "ok" else "let all machines follow the same time (chrony); `timedatectl` says whether one does"
    )
    yield Check("clock", state, told, "" if state == "ok" else remedy)


def _postgres(settings: Settings) -> float | None:
    with connect_postgres(settings) as connection:
        return float(query(connection, "clock")[0]["seconds"])


def _nats(settings: Settings) -> float | None:
    return asyncio.run(_ask_nats(settings))


async def _ask_nats(settings: Settings) -> float | None:
    client = await connect(settings, "slate-doctor")
    try:
        answer = await client.request(f"$JS.API.STREAM.INFO.{settings.stream}", timeout=3)
        told = json.loads(answer.data).get("ts")
        return datetime.fromisoformat(told).timestamp() if told else None
    finally:
        await client.close()


def _redis(settings: Settings) -> float | None:
    if settings.redis_host is None:
        return None
    with redis_client(settings) as client:
        seconds, microseconds = client.time()
        return float(seconds) + float(microseconds) / 1e6
