"""The outbox: what it refuses, what JetStream refuses, and how much it keeps."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import StreamConfig

from connectors.errors import ConfigurationError, PublishError
from connectors.outbox import Outbox
from connectors.settings import Settings
from deploy.servers import NatsServer
from tests.conftest import MakeSettings
from tests.support.outbox import client_of, metric, put, stored
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b'{"kind": "k", "n": 1.0}', {"kind": "k", "n": 1.0}),
        (b"\xff\0", base64.b64encode(b"\xff\0").decode()),
        (b"[" * 5000, base64.b64encode(b"[" * 5000).decode()),
        (b"", ""),
    ],
)
def test_a_message_that_jetstream_refuses_becomes_a_dead_letter(
    settings: Settings, tmp_path: Path, payload: bytes, shown: Any
) -> None:
    before = metric("spark_outbox_rejected_total"), metric("spark_outbox_published_total")

    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.put("spark.telemetry.a", payload, msg_id="m", headers={"Nats-Expected-Stream": "OTHER"})
            await outbox.flush(30)

    asyncio.run(run())
    ((subject, msg_id, data),) = asyncio.run(stored(settings))
    letter = json.loads(data)
    assert (subject, msg_id) == ("spark.dlq", "dlq:m")
    assert (letter["subject"], letter["payload"]) == ("spark.telemetry.a", shown)
    assert letter["error"] == "expected stream does not match (10060)"
    assert letter["timestamp"] > 1_700_000_000_000
    assert set(letter) == {"subject", "payload", "error", "timestamp"}
    assert metric("spark_outbox_rejected_total") == before[0] + 1
    assert metric("spark_outbox_published_total") == before[1]


def test_what_not_even_a_dead_letter_can_hold_stays_on_disk_and_delays_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    async def limit(size: int) -> None:
        async with client_of(settings) as jetstream:
            config: StreamConfig = (await jetstream.stream_info(settings.stream)).config
            config.max_msg_size = size
            await jetstream.update_stream(config)

    async def refused() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.put("spark.telemetry.a", b"x" * 5000, msg_id="e0")
            await outbox.put("spark.telemetry.a", b"{}", msg_id="e1")
            await until(lambda: outbox.pending == 1 and not outbox.held)
            with pytest.raises(PublishError, match="1 events"):
                await outbox.flush(0.1)
            await outbox.close(0.1)

    async def taken() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.flush(30)

    asyncio.run(limit(1000))
    asyncio.run(refused())
    assert {msg_id for _, msg_id, _ in asyncio.run(stored(settings))} == {"e1"}
    asyncio.run(limit(-1))
    asyncio.run(taken())
    assert {msg_id for _, msg_id, _ in asyncio.run(stored(settings))} == {"e0", "e1"}


def test_the_journal_has_a_limit_and_naming_it_the_error_says_what_to_do(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        nats_server.kill()
        async with await Outbox.open(settings, tmp_path, max_bytes=100_000) as outbox:
            with pytest.raises(PublishError, match="SLATE_SPILL_DIR"):
                await put(outbox, range(100), b"x" * 2000)
            accepted = outbox.pending
            assert accepted > 40
            nats_server.start()
            await outbox.flush(30)
            await put(outbox, range(accepted, 100))
            await outbox.flush(30)

    asyncio.run(run())
    assert len(asyncio.run(stored(settings))) == 100


@pytest.mark.parametrize(
    ("subject", "payload", "msg_id", "headers", "message"),
    [
        ("spark", b"", "m", None, "subject"),
        ("other.a", b"", "m", None, "subject"),
        ("spark.a b", b"", "m", None, "subject"),
        ("spark.a\r\nPUB x 0", b"", "m", None, "subject"),
        ("spark..a", b"", "m", None, "subject"),
        ("spark.*", b"", "m", None, "subject"),
        ("spark.\ud800", b"", "m", None, "subject"),
        ("spark." + "a" * 4096, b"", "m", None, "subject"),
        ("spark.a", b"x" * ((1 << 20) + 1), "m", None, "1 MiB"),
        ("spark.a", b"", " ", None, "message id"),
        ("spark.a", b"", "a\nb", None, "message id"),
        ("spark.a", b"", "m", {"a:b": "c"}, "header"),
        ("spark.a", b"", "m", {"a": "c\r\nd"}, "header"),
        ("spark.a", b"", "m", {"a": "c" * 5000}, "header"),
    ],
)
def test_what_no_server_could_take_is_refused_at_once(
    settings: Settings,
    tmp_path: Path,
    subject: str,
    payload: bytes,
    msg_id: str,
    headers: dict[str, str] | None,
    message: str,
) -> None:
    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            with pytest.raises(PublishError, match=message):
                await outbox.put(subject, payload, msg_id=msg_id, headers=headers)
            assert outbox.pending == 0

    asyncio.run(run())


def test_the_largest_event_is_taken(settings: Settings, tmp_path: Path) -> None:
    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.put("spark." + "a" * 1994, b"x" * (1 << 20), msg_id="m" * 1000, headers={"h": "v" * 3999})
            await outbox.flush(30)

    asyncio.run(run())
    assert len(asyncio.run(stored(settings))) == 1


def test_a_caller_in_a_loop_does_not_keep_the_rest_of_the_program_from_running(
    settings: Settings, tmp_path: Path
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            other = asyncio.create_task(tick())
            await put(outbox, range(1000))
            assert ticks >= 20
            other.cancel()

    asyncio.run(run())


def test_cancelling_what_puts_and_closes_leaves_no_task_behind(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def work() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            for number in range(1_000_000):
                await put(outbox, range(number, number + 1))

    async def run() -> None:
        for wait in (0.0, 0.01, 0.1, 0.3):
            task = asyncio.create_task(work())
            await asyncio.sleep(wait)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_without_nats_set_it_is_said_at_once(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="NATS_URL"):
        asyncio.run(Outbox.open(Settings.load(local=False), tmp_path))
