"""Outboxes in tests: what the stream holds, and ways to trouble."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from prometheus_client import REGISTRY

from connectors.outbox import Outbox
from connectors.settings import Settings
from deploy.servers import NatsServer
from tests.support.outbox_process import SESSIONS
from tests.support.proxy import Proxy
from tests.support.waiting import until

Stored = list[tuple[str, str, bytes]]
"""Subject as published, message id, payload."""


async def stored(settings: Settings) -> Stored:
    """What the stream holds, in order."""
    client = await nats.connect(settings.nats_servers())
    try:
        jetstream = client.jetstream()
        last = (await jetstream.stream_info(settings.stream)).state.last_seq
        found = []
        for number in range(1, last + 1):
            one = await jetstream.get_msg(settings.stream, seq=number, direct=True)
            subject = one.subject or ""
            found.append((subject[subject.index("spark.") :], (one.headers or {})["Nats-Msg-Id"], one.data or b""))
        return found
    finally:
        await client.close()


def in_order(found: Stored) -> bool:
    """Whether the ids `<letter><number>` of each session ascend, by their first occurrence."""
    last: dict[str, int] = {}
    seen: set[str] = set()
    for subject, msg_id, _ in found:
        if msg_id in seen:
            continue
        seen.add(msg_id)
        session = subject.rpartition(".")[2]
        if int(msg_id[1:]) <= last.get(session, -1):
            return False
        last[session] = int(msg_id[1:])
    return True


async def until_left(outbox: Outbox, count: int) -> None:
    await until(lambda: outbox.pending <= count)


async def put(outbox: Outbox, numbers: range, payload: bytes = b"{}") -> None:
    for number in numbers:
        await outbox.put(f"spark.telemetry.s{number % SESSIONS}", payload, msg_id=f"e{number}")


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[Any]:
    client = await nats.connect(settings.nats_servers())
    try:
        yield client.jetstream()
    finally:
        await client.close()


def through(settings: Settings, proxy: Proxy, nats_server: NatsServer) -> Settings:
    url = nats_server.environment()["NATS_URL"].replace(f":{nats_server.port}", f":{proxy.port}")
    return Settings.load(local=False, nats_url=url, stream=settings.stream)


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0
