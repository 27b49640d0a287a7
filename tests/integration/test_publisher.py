"""The publisher, where the connection breaks under it."""

import asyncio

import pytest
from nats.js.api import PubAck

from connectors import publisher as module
from connectors.publisher import Publisher
from connectors.settings import Settings


def test_a_connection_that_is_lost_while_an_event_is_sent_again_does_not_end_sending(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library then raises what the socket says, which is none of its own errors."""
    monkeypatch.setattr(module, "RESEND_AFTER_S", 0.1)

    async def scenario() -> None:
        async with await Publisher.connect(settings) as publisher:
            send, lost = publisher._jetstream.publish_async, 0

            async def fragile(subject: str, payload: bytes, headers: dict[str, str] | None) -> "asyncio.Future[PubAck]":
                nonlocal lost
                if lost < 3:
                    lost += 1
                    raise ConnectionResetError("Connection lost")
                return await send(subject, payload, headers=headers)

            monkeypatch.setattr(publisher._jetstream, "publish_async", fragile)
            await publisher.publish("spark.usage.s", b"{}", msg_id="a")
            async with asyncio.timeout(10):
                await publisher.flush()
            assert (publisher.acknowledged, lost) == (1, 3)

    asyncio.run(scenario())
