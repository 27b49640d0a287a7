"""Events that were accepted are in the stream, in order, whatever happened to NATS and to the process meanwhile."""

import asyncio
import random
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connectors import outbox as module
from connectors.errors import PublishError
from connectors.outbox import Outbox
from connectors.settings import Settings
from deploy.servers import NatsServer
from tests.support.outbox import client_of, in_order, metric, put, stored, through, until_left
from tests.support.outbox_process import OutboxProcess
from tests.support.proxy import Proxy
from tests.support.waiting import eventually, until


def test_what_is_put_is_in_the_stream_after_a_flush_with_its_headers(settings: Settings, tmp_path: Path) -> None:
    async def run() -> None:
        before = metric("spark_outbox_published_total"), metric("spark_outbox_ack_seconds_count")
        async with await Outbox.open(settings, tmp_path / "spill") as outbox:
            await until(lambda: outbox.connected)
            await outbox.put("spark.telemetry.a", b'{"n":1}', msg_id="m1", headers={"X-Kind": "k"})
            await outbox.put("spark.telemetry.a", b"\0\xff", msg_id="m2")
            await outbox.flush(10)
            assert outbox.pending == outbox.held == outbox.held_bytes == 0
        assert metric("spark_outbox_published_total") == before[0] + 2
        assert metric("spark_outbox_ack_seconds_count") == before[1] + 2
        assert await stored(settings) == [
            ("spark.telemetry.a", "m1", b'{"n":1}'),
            ("spark.telemetry.a", "m2", b"\0\xff"),
        ]
        async with client_of(settings) as jetstream:
            first = await jetstream.get_msg(settings.stream, seq=1)
        assert first.headers["X-Kind"] == "k"
        assert not list((tmp_path / "spill").iterdir())

    asyncio.run(run())


def test_events_of_a_session_stay_in_order_while_nats_is_killed_and_started(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            for round_ in range(3):
                await put(outbox, range(1000 * round_, 1000 * round_ + 500))
                await until_left(outbox, outbox.pending // 2)
                nats_server.kill()
                await put(outbox, range(1000 * round_ + 500, 1000 * round_ + 1000))
                assert outbox.pending >= 500
                nats_server.start()
            await outbox.flush(60)
        found = await stored(settings)
        assert sorted(msg_id for _, msg_id, _ in found) == sorted(f"e{number}" for number in range(3000))
        assert in_order(found)

    asyncio.run(run())


def test_opening_and_putting_do_not_wait_for_nats_and_all_is_sent_when_it_comes(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        nats_server.kill()
        async with asyncio.timeout(5):
            outbox = await Outbox.open(settings, tmp_path)
            await put(outbox, range(100))
        async with outbox:
            assert not outbox.connected
            assert outbox.pending == 100
            assert metric("spark_outbox_pending") == 100
            assert metric("spark_outbox_bytes") > 100
            with pytest.raises(PublishError, match=r"100 events .* NATS_URL"):
                await outbox.flush(0.1)
            nats_server.start()
            await outbox.flush(30)
        assert metric("spark_outbox_pending") == metric("spark_outbox_bytes") == 0
        assert len(await stored(settings)) == 100

    asyncio.run(run())


def test_connections_that_are_cut_lose_and_repeat_nothing(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run(through_proxy: Settings, proxy: Proxy) -> None:
        async with await Outbox.open(through_proxy, tmp_path) as outbox:
            chance = random.Random(7)
            for begin in range(0, 2000, 200):
                await until(lambda: outbox.connected)
                await put(outbox, range(begin, begin + 200))
                await until_left(outbox, chance.randrange(1, 200))
                cuts = proxy.cuts
                if chance.random() < 0.5:
                    proxy.cut()
                else:
                    proxy.cut_after_request()
                    await put(outbox, range(10_000 + begin, 10_000 + begin + 200))
                await until(lambda: proxy.cuts > cuts)  # noqa: B023 - it is called here
            await outbox.flush(60)

    with Proxy(nats_server.port) as proxy:
        asyncio.run(run(through(settings, proxy, nats_server), proxy))
        assert proxy.cuts >= 10
    found = asyncio.run(stored(settings))
    ids = [msg_id for _, msg_id, _ in found]
    assert len(ids) == len(set(ids))
    assert {f"e{number}" for number in range(2000)} <= set(ids)


def test_what_killed_processes_had_accepted_while_nats_was_away_is_sent_by_the_next_one(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    spill, accepted = tmp_path / "spill", list[str]()
    nats_server.kill()
    for first in (0, 10_000):
        with OutboxProcess(settings, spill, first, 5000) as one:
            eventually(lambda: len(one.accepted()) == 5000, 60)
            one.kill()
            accepted += one.accepted()
    nats_server.start()
    with OutboxProcess(settings, spill, 0, 0) as last:
        last.wait()
    found = asyncio.run(stored(settings))
    assert sorted(msg_id for _, msg_id, _ in found) == sorted(accepted)
    assert in_order(found)
    assert not list(spill.iterdir())


def test_kill_9_at_any_instant_loses_nothing_that_was_accepted(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    spill, accepted, in_doubt = tmp_path / "spill", set[str](), set[str]()
    chance = random.Random(11)
    for first in range(0, 60_000, 10_000):
        with OutboxProcess(settings, spill, first, 10_000) as one:
            enough = chance.randrange(1, 1500)
            eventually(lambda: len(one.accepted()) >= enough, 60)  # noqa: B023 - it is called here
            if chance.random() < 0.3:
                nats_server.kill()
            one.kill()
            accepted |= set(one.accepted())
            in_doubt.add(f"e{first + len(one.accepted())}")
            nats_server.start()
    with OutboxProcess(settings, spill, 0, 0) as last:
        last.wait()
    found = asyncio.run(stored(settings))
    ids = [msg_id for _, msg_id, _ in found]
    assert len(ids) == len(set(ids))
    assert accepted <= set(ids)
    assert set(ids) - accepted <= in_doubt, "only what was written when its process died before it could say so"
    assert in_order(found)
    assert not list(spill.iterdir())


def test_what_a_process_leaves_is_sent_by_one_that_runs(
    settings: Settings, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with await Outbox.open(settings, tmp_path / "spill") as outbox:
            with OutboxProcess(settings, tmp_path / "spill", 0, 500) as one:
                await asyncio.to_thread(eventually, lambda: len(one.accepted()) == 500, 60)
                one.kill()
            assert outbox.pending == 0
            nats_server.start()
            await until(lambda: metric("spark_outbox_published_total") >= before + 500)

    monkeypatch.setattr(module, "ADOPT_EVERY_S", 0.1)
    before = metric("spark_outbox_published_total")
    nats_server.kill()
    asyncio.run(run())
    assert len(asyncio.run(stored(settings))) == 500


def test_closing_leaves_on_disk_what_could_not_be_sent_and_says_how_much(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def leave() -> None:
        outbox = await Outbox.open(settings, tmp_path)
        await put(outbox, range(7))
        with capture_logs() as logs:
            await outbox.close(0.1)
        assert [one["events"] for one in logs if one["event"].startswith("events stay on disk")] == [7]
        await outbox.close()
        with pytest.raises(PublishError, match="closed"):
            await outbox.put("spark.telemetry.a", b"", msg_id="m")

    async def send() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            assert outbox.pending == 7
            await outbox.flush(30)

    nats_server.kill()
    asyncio.run(leave())
    nats_server.start()
    asyncio.run(send())
    assert len(asyncio.run(stored(settings))) == 7
    assert not list(tmp_path.glob("0*"))


def test_a_server_that_hangs_costs_no_more_memory_than_the_window_and_closing_does_not_wait_for_it(
    settings: Settings, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_RECORDS", 100)
    monkeypatch.setattr(module, "WINDOW_BYTES", 24 << 20)
    monkeypatch.setattr(module, "RESEND_AFTER_S", 0.1)  # so that the library holds repetitions, too

    async def run(payload: bytes, count: int, most: int) -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await until(lambda: outbox.connected)
            nats_server.pause()
            try:
                for number in range(count):
                    await outbox.put(f"spark.telemetry.s{number}", payload, msg_id=f"{len(payload)}-{number}")
                    assert outbox.held <= most
                    assert outbox.held_bytes <= 24 << 20
                assert outbox.pending == count
                assert outbox.held == most
                async with asyncio.timeout(5):
                    await outbox.close(0.5)
                assert asyncio.all_tasks() == {asyncio.current_task()}
            finally:
                nats_server.resume()

    async def send() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.flush(60)

    asyncio.run(run(b"x" * 10, 1000, 100))
    asyncio.run(send())
    asyncio.run(run(b"x" * (1 << 20), 40, 24))
    asyncio.run(send())
    assert len({msg_id for _, msg_id, _ in asyncio.run(stored(settings))}) == 1040


def test_a_connection_that_cannot_even_be_closed_is_given_up_for_a_new_one(
    settings: Settings, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the network swallows everything: what was sent before stands in the way of closing."""
    monkeypatch.setattr(module, "_RECONNECT_S", 0.5)

    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await until(lambda: outbox.connected)
            nats_server.pause()
            for number in range(20):
                await outbox.put(f"spark.telemetry.s{number}", b"x" * (1 << 20), msg_id=f"e{number}")
            with capture_logs() as logs:
                assert outbox._client is not None
                await asyncio.sleep(0)
                await outbox._client.force_reconnect()  # what missing answers to pings do after 30 s
                await until(lambda: any("making another" in one["event"] for one in logs))
            nats_server.resume()
            await outbox.flush(30)

    asyncio.run(run())
    assert len(asyncio.run(stored(settings))) == 20


def test_a_session_whose_events_wait_delays_no_other(settings: Settings, tmp_path: Path) -> None:
    """Here the one is refused again and again before it is a dead letter."""

    async def run() -> None:
        async with await Outbox.open(settings, tmp_path) as outbox:
            await outbox.put("spark.telemetry.bad", b"{}", msg_id="e0", headers={"Nats-Expected-Stream": "OTHER"})
            await outbox.put("spark.telemetry.bad", b"{}", msg_id="e1")
            await outbox.put("spark.telemetry.good", b"{}", msg_id="e2")
            await outbox.flush(30)

    asyncio.run(run())
    assert [msg_id for _, msg_id, _ in asyncio.run(stored(settings))] == ["e2", "dlq:e0", "e1"]
