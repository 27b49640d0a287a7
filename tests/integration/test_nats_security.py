"""NATS as `deploy/nats` configures it: each user does its whole work, and nothing else, and is told what it may not."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr
from structlog.testing import LogCapture
from typer.testing import CliRunner, Result

from connectors.errors import ConnectionFailedError, PublishError, SlateError
from connectors.jetstream import backlog, check_stream, connect, ensure_stream, partition_numbers
from connectors.outbox import Outbox
from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import environment_of
from tests.support.rollups import counted
from tests.support.secure_nats import SecureNats
from tests.support.sessions import USER
from tests.support.stack import connect as connect_postgres
from tests.support.traffic import last_sequence
from tests.support.waiting import eventually, until
from tests.support.worker import Worker

STREAM = "$JS.API.STREAM"
CONSUMER = "$JS.API.CONSUMER"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureNats]:
    """A server of the test's own, without a stream."""
    with SecureNats(tmp_path / "secure") as secure:
        yield secure


def slate(settings: Settings, *arguments: str) -> Result:
    environment = {**environment_of(settings), "COLUMNS": "200"}
    return CliRunner().invoke(app, list(arguments), env=environment)


async def refusals(secure: SecureNats, user: str, do: Callable[[Client], Any]) -> list[str]:
    """What NATS says to a user who does this."""
    said: list[str] = []
    client = await connect(secure.settings(None, user), "test-intruder", refused=said.append)
    try:
        await do(client)
        await client.flush()
        await client.flush()
    finally:
        await client.close()
    return said


# ---- each does its work ----------------------------------------------------------------------------------------------


def test_each_user_does_its_whole_work_and_is_refused_nothing(secure: SecureNats, settings: Settings) -> None:
    admin, worker, publisher = (secure.settings(settings, user) for user in ("admin", "worker", "publisher"))
    for partitions in (4, 8):
        migrated = slate(admin.model_copy(update={"partitions": partitions}), "migrate")
        assert migrated.exit_code == 0, migrated.output
    notices: list[str] = []

    async def listen() -> None:
        async def hear(message: Msg) -> None:
            notices.append(message.subject)

        client = await connect(admin, "test-listener")
        await client.subscribe("slate.dead_letters.*", cb=hear)
        await until(stop.is_set, 120)
        await client.close()

    stop = threading.Event()
    listener = threading.Thread(target=lambda: asyncio.run(listen()))
    listener.start()
    try:
        with (
            connect_postgres(settings) as database,
            Worker(worker) as ingest,
            Worker(worker, flow="flows.rollups"),
        ):

            def one(query: str) -> Any:
                row = database.execute(query.encode()).fetchone()
                assert row is not None
                return row[0]

            simulated = slate(publisher, "simulate", "--messages", "300", "--rate", "1000")
            assert simulated.exit_code == 0, simulated.output
            asyncio.run(_publish_all_ways(publisher))
            eventually(lambda: one("SELECT count(*) FROM slate.dead_letters WHERE subject = 'spark.usage.x'") == 1, 30)
            eventually(lambda: one("SELECT sum(read) FROM slate.ledger") == 304, 30)
            eventually(lambda: notices, 10)
            assert notices[0].startswith("slate.dead_letters.")
            replayed = slate(admin, "dead-letters", "replay", "--subject", "spark.usage.x")
            assert "1 published again" in replayed.output
            eventually(lambda: one("SELECT sum(read) FROM slate.ledger") == 305, 30)
            last = asyncio.run(last_sequence(admin))
            eventually(lambda: counted(database) == last, 30)
            idle = "SELECT min(seq) FROM slate.progress WHERE stream = 'SPARK'"  # moves along when a reader has asked
            eventually(lambda: one(idle) == last, 30)
            doctor = slate(admin.model_copy(update={"metrics_port": ingest.metrics_port}), "doctor")
            assert "NATS refused" not in doctor.output
            assert re.search(r"stream\s.*SPARK, 8 partitions", doctor.output), doctor.output
            waiting, _ = asyncio.run(backlog(worker, dict.fromkeys(partition_numbers(worker), 0), time.time()))
            assert waiting == 305
            with Worker(worker) as second:  # asks who reads each partition
                eventually(lambda: "standing by" in second.log.read_text(), 30)
        forgotten = slate(admin, "forget", "--user", USER, "--yes")
        assert forgotten.exit_code == 0, forgotten.output
        assert "Deleted." in forgotten.output
    finally:
        stop.set()
        listener.join(10)
    assert not secure.violations()


async def _publish_all_ways(publisher: Settings) -> None:
    async with await Publisher.connect(publisher) as one:
        await one.publish("spark.usage.x", b"bad", msg_id="1")
    async with await Outbox.open(publisher, Path("spill")) as outbox:
        await outbox.put("spark.delta.x", b'{"type":"delta","delta":{}}', msg_id="2")
        began = int(time.time() * 1000) - 3_600_000
        for number, what in enumerate(("connected", "disconnected")):
            told = {"type": what, "userId": USER, "timestamp": began + number}
            await outbox.put(f"spark.session.{what}.x", json.dumps(told).encode(), msg_id=what)
        await outbox.flush(10)


def test_a_monitor_sees_figures_of_the_servers_and_changes_nothing(secure_nats: SecureNats) -> None:
    async def ask(client: Client) -> None:
        for what in ("STATSZ", "VARZ", "CONNZ", "ROUTEZ", "JSZ", "HEALTHZ"):
            answer = await client.request(f"$SYS.REQ.SERVER.PING.{what}", timeout=5)
            assert json.loads(answer.data)["server"]["name"] == "nats-0"

    assert asyncio.run(refusals(secure_nats, "monitor", ask)) == []
    node = secure_nats.nodes[0]
    server = node.told("varz")["server_id"]
    for subject in (
        f"$SYS.REQ.SERVER.{server}.RELOAD",
        f"$SYS.REQ.SERVER.{server}.KICK",
        "$SYS.REQ.SERVER.PING.PROFILEZ",
    ):
        assert asyncio.run(refusals(secure_nats, "monitor", lambda client, to=subject: client.publish(to, b"{}")))  # type: ignore[misc]


# ---- and nothing else ------------------------------------------------------------------------------------------------

NOT_TO_PUBLISH = {
    "publisher": [
        "$JS.API.INFO",
        f"{STREAM}.NAMES",
        f"{STREAM}.LIST",
        f"{STREAM}.INFO.SPARK",
        f"{STREAM}.CREATE.OTHER",
        f"{STREAM}.UPDATE.SPARK",
        f"{STREAM}.DELETE.SPARK",
        f"{STREAM}.PURGE.SPARK",
        f"{STREAM}.MSG.GET.SPARK",
        f"{STREAM}.MSG.DELETE.SPARK",
        f"{STREAM}.SNAPSHOT.SPARK",
        "$JS.API.DIRECT.GET.SPARK",
        f"{CONSUMER}.CREATE.SPARK",
        f"{CONSUMER}.CREATE.SPARK.x.spark.>",
        f"{CONSUMER}.DURABLE.CREATE.SPARK.x",
        f"{CONSUMER}.MSG.NEXT.SPARK.x",
        f"{CONSUMER}.DELETE.SPARK.x",
        "$JS.ACK.SPARK.x.1.1.1.1.1",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.USER.AUTH",
        "p.0.spark.delta.x",
        "slate.reader.ingest.SPARK.0",
        "slate.dead_letters.decode",
        "_INBOX_wrk.x",
        "_INBOX_adm.x",
        "spark",
        "anything",
    ],
    "worker": [
        "spark.delta.x",
        "spark.dlq",
        "$JS.API.INFO",
        f"{STREAM}.NAMES",
        f"{STREAM}.INFO.OTHER",
        f"{STREAM}.CREATE.SPARK",
        f"{STREAM}.UPDATE.SPARK",
        f"{STREAM}.DELETE.SPARK",
        f"{STREAM}.PURGE.SPARK",
        f"{STREAM}.MSG.DELETE.SPARK",
        f"{STREAM}.SNAPSHOT.SPARK",
        f"{STREAM}.LEADER.STEPDOWN.SPARK",
        f"{CONSUMER}.DURABLE.CREATE.SPARK.x",
        f"{CONSUMER}.CREATE.OTHER",
        f"{CONSUMER}.LIST.SPARK",
        f"{CONSUMER}.PAUSE.SPARK.x",
        "slate.reader.ingest.OTHER.0",
        "_INBOX_pub.x",
        "_INBOX_adm.x",
        "$SYS.REQ.USER.AUTH",
        "anything",
    ],
    "admin": [
        f"{STREAM}.DELETE.SPARK",
        f"{STREAM}.PURGE.SPARK",
        f"{STREAM}.CREATE.OTHER",
        f"{STREAM}.SNAPSHOT.SPARK",
        f"{CONSUMER}.DURABLE.CREATE.SPARK.x",
        "_INBOX_pub.x",
        "slate.dead_letters.decode",
        "$SYS.REQ.USER.AUTH",
        "anything",
    ],
    "callout": ["$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$JS.API.INFO", "spark.delta.x", "anything"],
    "monitor": ["$JS.API.INFO", "spark.delta.x", "$SYS.REQ.USER.AUTH", "$SYS.REQ.ACCOUNT.PING.CONNZ"],
}
NOT_TO_HEAR = {
    "publisher": [
        ">",
        "spark.>",
        "spark.delta.x",
        "p.>",
        "_INBOX_wrk.>",
        "_INBOX_adm.>",
        "_INBOX.>",
        "$JS.>",
        "slate.>",
    ],
    "worker": [
        ">",
        "spark.>",
        "spark.delta.x",
        "p.>",
        "_INBOX_pub.>",
        "_INBOX_adm.>",
        "$JS.API.>",
        "slate.dead_letters.*",
    ],
    "admin": [">", "spark.>", "spark.delta.x", "_INBOX_pub.>", "_INBOX_wrk.>", "$JS.API.>", "$JS.EVENT.ADVISORY.>"],
    "callout": [">", "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.AUTH other", "$SYS.>", "spark.>", "_INBOX.>"],
    "monitor": [">", "$SYS.>", "$SYS.REQ.>", "spark.>", "_INBOX_adm.>"],
}


@pytest.mark.parametrize("user", NOT_TO_PUBLISH)
def test_a_user_publishes_nothing_that_is_not_its_own(secure_nats: SecureNats, user: str) -> None:
    async def try_all(client: Client) -> None:
        for subject in NOT_TO_PUBLISH[user]:
            await client.publish(subject, b"{}")

    said = asyncio.run(refusals(secure_nats, user, try_all))
    for subject in NOT_TO_PUBLISH[user]:
        assert [one for one in said if f'publish to "{subject.lower()}"' in one], subject


@pytest.mark.parametrize("user", NOT_TO_HEAR)
def test_a_user_hears_nothing_that_is_not_its_own(secure_nats: SecureNats, user: str) -> None:
    async def try_all(client: Client) -> None:
        for subject in NOT_TO_HEAR[user]:
            name, _, queue = subject.partition(" ")
            await client.subscribe(name, queue=queue)

    said = asyncio.run(refusals(secure_nats, user, try_all))
    for subject in NOT_TO_HEAR[user]:
        name, _, queue = subject.partition(" ")
        words = f'subscription to "{name.lower()}"' + (f' using queue "{queue}"' if queue else "")
        assert [one for one in said if words in one], subject


@pytest.mark.parametrize("subject", [f"{STREAM}.PURGE.SPARK", f"{STREAM}.DELETE.SPARK", f"{STREAM}.MSG.DELETE.SPARK"])
def test_a_publisher_cannot_have_the_acknowledgement_sent_to_the_api(secure_nats: SecureNats, subject: str) -> None:
    async def run() -> None:
        async with await Publisher.connect(secure_nats.settings(None, "publisher")) as publisher:
            for _ in range(3):
                await publisher.publish("spark.delta.x", b"{}")
        client = await connect(secure_nats.settings(None, "admin"), "test-admin")
        before = (await client.jetstream().stream_info("SPARK")).state.messages

        async def trick(intruder: Client) -> None:
            await intruder.publish("spark.delta.x", b"{}", reply=subject)

        await refusals(secure_nats, "publisher", trick)
        assert (await client.jetstream().stream_info("SPARK")).state.messages == before + 1
        await client.close()

    asyncio.run(run())


def test_who_has_no_password_is_refused_and_told_so(secure_nats: SecureNats) -> None:
    async def refusal(login: str) -> str:
        address = SecretStr(f"tls://{login}localhost:{secure_nats.nodes[0].port}")
        with pytest.raises(ConnectionFailedError) as caught:
            await connect(secure_nats.settings(None, "publisher", nats_url=address), "test-intruder")
        return str(caught.value)

    async def run() -> list[str]:
        return await asyncio.gather(*map(refusal, ("publisher:wrong@", "nobody:x@", "token@", "")))

    assert set(asyncio.run(run())) == {"NATS refuses us: check user and password in NATS_URL"}


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_publisher_that_may_not_publish_says_so_at_once(secure_nats: SecureNats) -> None:
    async def publish(settings: Settings) -> None:
        async with await Publisher.connect(settings) as publisher:
            await publisher._client.flush()  # so a refusal of what was asked for is known before there is an event
            await publisher.publish("spark.usage.Mixed", b"{}", msg_id="1")

    async def run(user: str, **more: Any) -> str:
        start = time.monotonic()
        with pytest.raises(PublishError) as caught:
            await publish(secure_nats.settings(None, user, **more))
        assert time.monotonic() - start < 5
        return str(caught.value)

    assert 'NATS refused: permissions violation for publish to "spark.usage.mixed"' in asyncio.run(run("worker"))
    assert "set SLATE_NATS_INBOX" in asyncio.run(run("publisher", nats_inbox="_INBOX"))


def test_events_of_one_that_may_not_publish_stay_on_disk_and_the_log_says_why(
    secure_nats: SecureNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = LogCapture()
    filtering = structlog.make_filtering_bound_logger(0)  # whatever a command in this process has configured
    monkeypatch.setattr("connectors.outbox._log", structlog.wrap_logger(None, [said], filtering))

    async def run() -> None:
        async with await Outbox.open(secure_nats.settings(None, "worker"), Path("spill")) as outbox:
            await outbox.put("spark.usage.x", b"{}", msg_id="x")
            await until(lambda: [one for one in said.entries if one["event"] == "events wait on disk"])
            assert outbox.pending == 1
        async with await Outbox.open(secure_nats.settings(None, "publisher"), Path("spill")) as outbox:
            await outbox.flush(10)

    asyncio.run(run())
    (waiting,) = [one for one in said.entries if one["event"] == "events wait on disk"]
    assert 'NATS refused: permissions violation for publish to "spark.usage.x"' in waiting["error"]


def test_migrate_and_the_rest_say_what_was_refused(secure_nats: SecureNats, secure: SecureNats) -> None:
    publisher = secure_nats.settings(None, "publisher")

    async def run() -> list[Any]:
        tries = (
            ensure_stream(publisher),
            ensure_stream(secure.settings(None, "worker")),  # it sees that there is no stream, and may not make it
            backlog(publisher, {0: 0}, time.time()),
            check_stream(publisher),
        )
        return list(await asyncio.gather(*tries, return_exceptions=True))

    seen, made, counted_, checked = asyncio.run(run())
    forbidden = 'NATS refused: permissions violation for publish to "$js.api.'
    assert str(seen).startswith(forbidden + "stream.info.spark")
    assert str(made).startswith(forbidden + "stream.create.spark")
    assert str(counted_).startswith(forbidden + "consumer.create.spark")
    assert checked[0].startswith(forbidden + "stream.info.spark")
    assert all(isinstance(one, SlateError) for one in (seen, made, counted_))
