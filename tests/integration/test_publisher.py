"""The publisher, where the connection breaks under it or the stream takes no event."""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from connectors import publisher as module
from connectors.errors import PublishError
from connectors.jetstream import connect, ensure_stream
from connectors.publisher import Publisher
from connectors.settings import Settings
from tests.support.waiting import until

SUBJECT = "spark.usage.s"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESEND_AFTER_S", 0.1)


async def limit(settings: Settings, **limits: Any) -> None:
    """Change the limits of the stream."""
    client = await connect(settings, "test-limits")
    stream = client.jetstream()
    config: StreamConfig = (await stream.stream_info(settings.stream)).config
    await stream.update_stream(dataclasses.replace(config, **limits))
    await client.close()


@pytest.mark.parametrize("lost", [None, ConnectionResetError("Connection lost")])
def test_what_is_lost_on_the_way_is_sent_again_however_often(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, lost: Exception | None
) -> None:
    """Far more tries than the window has places, and over TLS the library raises the socket's error."""

    async def scenario() -> None:
        tries: Counter[str] = Counter()
        async with await Publisher.connect(settings, max_pending=2) as publisher:
            send = publisher._client.publish

            async def fragile(subject: str, payload: bytes, *, reply: str, headers: dict[str, str]) -> None:
                tries[headers["Nats-Msg-Id"]] += 1
                if tries[headers["Nats-Msg-Id"]] > 6:
                    await send(subject, payload, reply=reply, headers=headers)
                elif lost is not None:
                    raise lost

            monkeypatch.setattr(publisher._client, "publish", fragile)
            async with asyncio.timeout(20):
                for number in range(4):
                    await publisher.publish(SUBJECT, b"{}", msg_id=str(number))
                await publisher.flush()
            assert (publisher.acknowledged, publisher.duplicates) == (4, 0)

    asyncio.run(scenario())


def test_what_the_stream_will_never_take_is_said_at_once_and_why(settings: Settings) -> None:
    async def scenario() -> None:
        await limit(settings, max_msg_size=100)
        async with await Publisher.connect(settings) as publisher:
            await publisher.publish(SUBJECT, b"x" * 200, msg_id="a")
            async with asyncio.timeout(10):
                with pytest.raises(PublishError, match=f"{SUBJECT}.*message size exceeds maximum allowed"):
                    await publisher.flush()
            await publisher.publish(SUBJECT, b"{}", msg_id="b")
            await publisher.flush()
            assert publisher.acknowledged == 1

    asyncio.run(scenario())


def test_what_a_full_stream_does_not_take_now_is_stored_once_there_is_room(settings: Settings) -> None:
    async def scenario() -> None:
        await limit(settings, max_msgs=1, discard=DiscardPolicy.NEW)
        async with await Publisher.connect(settings) as publisher:
            for number in range(3):
                await publisher.publish(SUBJECT, b"{}", msg_id=str(number))
            await until(lambda: [one.why for one in publisher._pending.values() if "maximum messages" in one.why])
            await until(lambda: publisher.acknowledged == 1)
            await limit(settings, max_msgs=-1)
            async with asyncio.timeout(10):
                await publisher.flush()
            assert publisher.acknowledged == 3

    asyncio.run(scenario())


def test_what_no_stream_takes_yet_is_stored_once_there_is_one(empty_settings: Settings) -> None:
    async def scenario() -> None:
        async with await Publisher.connect(empty_settings) as publisher:
            await publisher.publish(SUBJECT, b"{}", msg_id="a")
            await until(lambda: [one.why for one in publisher._pending.values() if "no stream" in one.why])
            await ensure_stream(empty_settings)
            async with asyncio.timeout(10):
                await publisher.flush()
            assert publisher.acknowledged == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "number", "final"),
    [
        (400, 10054, True),  # the message is too large
        (400, 10002, False),  # the account is full
        (409, 10158, False),  # its first copy is being stored
        (503, 10077, False),  # the stream is full, or its disk
    ],
)
def test_an_error_is_final_where_the_same_event_would_be_refused_again(code: int, number: int, final: bool) -> None:
    answer = module._ANSWER.decode(f'{{"error": {{"code": {code}, "err_code": {number}}}}}'.encode())
    assert answer.error.final == final


def test_an_event_without_an_id_is_not_sent_twice(settings: Settings) -> None:
    """Whether a lost one is stored nobody knows, and the stream could not tell them apart."""

    async def scenario() -> None:
        await limit(settings, max_msgs=1, discard=DiscardPolicy.NEW)
        async with await Publisher.connect(settings) as publisher:
            await publisher.publish(SUBJECT, b"{}")
            await publisher.publish(SUBJECT, b"{}")
            async with asyncio.timeout(10):
                with pytest.raises(PublishError, match="maximum messages exceeded"):
                    await publisher.flush()
            assert publisher.acknowledged == 1

    asyncio.run(scenario())
