"""Browsers at NATS: each hears one session of its user, until its token ends, and says nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.exceptions import InvalidHandshake, InvalidMessage

from connectors.errors import ConfigurationError
from connectors.jetstream import ensure_stream
from connectors.publisher import Publisher
from connectors.settings import Settings
from realtime.api.app import create_app
from realtime.nkey import Signer, new_seed, verified
from tests.support.nats_browser import RefusedError, browser
from tests.support.secure_nats import SecureNats
from tests.support.service import ADMIN, OTHER, READ, bearer, serving
from tests.support.sessions import JWT_SECRET, USER
from tests.support.stack import connect

SESSION = "session-of-user"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    """A server whose stream is there."""
    with SecureNats(tmp_path_factory.mktemp("secure")) as server:
        asyncio.run(ensure_stream(server.settings(Settings.load(local=False), "admin")))
        yield server


@pytest.fixture
def secure(server: SecureNats, settings: Settings) -> SecureNats:
    """It, and sessions of two users in the database."""
    server.start()
    with connect(settings) as database:
        wild = [(name, USER) for name in ("*", ">", f"x.{SESSION}", f"{SESSION} x")]  # somebody may call a session so
        for session, user in ((SESSION, USER), ("session-of-other", OTHER), ("session-of-nobody", None), *wild):
            database.execute(
                "INSERT INTO spark_sessions (session_id, user_id, model, started_at) VALUES (%s, %s, 'm', now())",
                (session, user),
            )
    return server


def token(user: str = USER, permissions: tuple[str, ...] = READ, **claims: Any) -> str:
    return bearer(user, permissions, **claims)["Authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def service(secure: SecureNats, settings: Settings, **more: Any) -> AsyncIterator[Any]:
    """The HTTP service, once NATS asks it; what it says of its metrics."""
    async with serving(secure.service(settings), **more) as client:

        async def outcomes() -> dict[str, float]:
            lines = (await client.get("/metrics")).text.splitlines()
            found = [one for one in lines if one.startswith("spark_nats_callouts_total{")]
            return {one.split('"')[1]: float(one.split()[-1]) for one in found}

        async with asyncio.timeout(10):
            while True:
                try:
                    async with browser(secure, user=SESSION, **{"pass": token()}):
                        break
                except RefusedError:
                    await asyncio.sleep(0.05)  # it is not connected yet
        yield outcomes


async def publish(secure: SecureNats, settings: Settings, *subjects: str) -> None:
    async with await Publisher.connect(secure.settings(settings, "publisher")) as publisher:
        for subject in subjects:
            await publisher.publish(subject, b"{}")


async def assert_refused(secure: SecureNats, **options: Any) -> None:
    with pytest.raises(RefusedError, match="Authorization Violation"):
        async with browser(secure, **options):
            pass


def test_a_browser_hears_each_subject_of_its_session_and_no_other(secure: SecureNats, settings: Settings) -> None:
    heard = [
        f"spark.delta.{SESSION}",
        f"spark.session.connected.{SESSION}",
        f"spark.build.unity.progress.{SESSION}",
    ]
    others = ["spark.delta.session-of-other", f"spark.{SESSION}.session-of-other", "spark.dlq"]

    async def run() -> None:
        async with (
            service(secure, settings),
            browser(secure, user=SESSION, **{"pass": token()}) as page,
            browser(secure, user=SESSION, auth_token=token(USER, ADMIN)) as another,
        ):
            for number, subject in enumerate(("spark.*.{}", "spark.*.*.{}", "spark.*.*.*.{}")):
                await page.subscribe(subject.format(SESSION), number + 1)
            await another.subscribe(f"spark.delta.{SESSION}")
            await publish(secure, settings, *others, *heard)
            assert [subject for subject, _ in await page.hear(3)] == heard
            assert [subject for subject, _ in await another.hear(1)] == heard[:1]
            assert not page.errors

    asyncio.run(run())


def test_a_browser_cannot_subscribe_to_anything_else(secure: SecureNats, settings: Settings) -> None:
    subjects = [
        "spark.delta.session-of-other",
        "spark.*.session-of-other",
        f"spark.{SESSION}.*",
        "spark.*.*",
        "spark.>",
        ">",
        "*.*.*",
        "p.>",
        "slate.>",
        "_INBOX.>",
        "_INBOX_pub.>",
        "_INBOX_adm.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.EVENT.ADVISORY.>",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
    ]

    async def run() -> None:
        async with service(secure, settings), browser(secure, user=SESSION, **{"pass": token()}) as page:
            for number, subject in enumerate(subjects):
                await page.subscribe(subject, number + 1)
                assert "Permissions Violation for Subscription" in page.errors[-1], subject
                assert len(page.errors) == number + 1, subject
            await publish(secure, settings, "spark.delta.session-of-other")
            await page.subscribe(f"spark.*.{SESSION}", 100)
            assert not page.messages

    asyncio.run(run())


def test_a_browser_publishes_nothing(secure: SecureNats, settings: Settings) -> None:
    subjects = [
        f"spark.delta.{SESSION}",
        "spark.dlq",
        "$JS.API.STREAM.DELETE.SPARK",
        "$JS.API.STREAM.INFO.SPARK",
        "$SYS.REQ.USER.INFO",
        "slate.reader.ingest.SPARK.0",
        "_INBOX_adm.x",
        "anything",
    ]

    async def run() -> None:
        async with service(secure, settings), browser(secure, user=SESSION, **{"pass": token()}) as page:
            for subject in subjects:
                await page.publish(subject)
                assert "Permissions Violation for Publish" in page.errors[-1]
            assert len(page.errors) == len(subjects)

    asyncio.run(run())


def test_a_browser_is_let_in_only_with_a_good_token_of_the_user_whose_session_it_is(
    secure: SecureNats, settings: Settings
) -> None:
    now = int(time.time())
    refused: list[tuple[str, dict[str, Any]]] = [
        ("bad_token", {"user": SESSION, "pass": "nonsense"}),
        ("bad_token", {"user": SESSION}),
        ("bad_token", {"user": SESSION, "pass": token()[:-2] + "xx"}),
        ("bad_token", {"user": SESSION, "pass": token(exp=now - 60)}),
        ("bad_token", {"user": SESSION, "pass": token(exp=now - 5)}),  # the service would still take it
        ("bad_token", {"user": SESSION, "pass": token(aud="another")}),
        ("not_allowed", {"user": SESSION, "pass": token(permissions=("spark:generate",))}),
        ("not_found", {"user": SESSION, "pass": token(OTHER)}),
        ("not_found", {"user": "session-of-other", "pass": token()}),
        ("not_found", {"user": "session-of-nobody", "pass": token()}),
        ("not_found", {"user": "unheard-of", "pass": token()}),
        ("not_found", {"user": "unheard-of", "pass": token(USER, ADMIN)}),
        ("not_found", {"user": "*", "pass": token(USER, ADMIN)}),
        ("not_found", {"user": ">", "pass": token(USER, ADMIN)}),
        ("not_found", {"user": f"x.{SESSION}", "pass": token()}),
        ("not_found", {"user": f"{SESSION} x", "pass": token()}),
        ("not_found", {"pass": token()}),
    ]

    async def run() -> None:
        async with service(secure, settings) as outcomes:
            for outcome, options in refused:
                before = (await outcomes()).get(outcome, 0)
                await assert_refused(secure, **options)
                assert (await outcomes())[outcome] == before + 1, options
            before = (await outcomes())["allowed"]
            async with browser(secure, user="session-of-other", **{"pass": token(USER, ADMIN)}) as page:
                await page.subscribe("spark.*.session-of-other")
                assert not page.errors
            assert (await outcomes())["allowed"] == before + 1

    asyncio.run(run())
    log = secure.nodes[0].log.read_text()
    assert "nonsense" not in log
    assert token().split(".")[1][:20] not in log


def test_a_browser_is_put_out_when_its_token_ends(secure: SecureNats, settings: Settings) -> None:
    async def run() -> None:
        async with service(secure, settings):
            end = int(time.time()) + 3
            async with browser(secure, user=SESSION, **{"pass": token(exp=end)}) as page:
                await page.subscribe(f"spark.*.{SESSION}")
                await asyncio.wait_for(page.closed.wait(), 10)
                assert time.time() >= end - 1
                assert "Authentication Expired" in page.errors[-1]

    asyncio.run(run())


def test_without_the_service_only_browsers_cannot_connect(secure: SecureNats, settings: Settings) -> None:
    async def run() -> None:
        start = time.monotonic()
        with pytest.raises(RefusedError):
            async with browser(secure, user=SESSION, **{"pass": token()}):
                pass
        assert time.monotonic() - start < 6
        await publish(secure, settings, "spark.delta.s")

    asyncio.run(run())


def test_the_service_goes_on_when_nats_was_away(secure: SecureNats, settings: Settings) -> None:
    node = secure.nodes[0]

    async def run() -> None:
        async with service(secure, settings):
            node.kill()
            node.start()  # of this thread: a server ends with the thread that started it
            async with asyncio.timeout(15):
                while True:
                    try:
                        async with browser(secure, user=SESSION, **{"pass": token()}):
                            break
                    except RefusedError:
                        await asyncio.sleep(0.1)

    asyncio.run(run())


def test_several_services_share_the_browsers(secure: SecureNats, settings: Settings) -> None:
    async def run() -> None:
        async with service(secure, settings) as outcomes, service(secure, settings):
            before = (await outcomes())["allowed"]  # both are of this process
            for _ in range(10):
                async with browser(secure, user=SESSION, **{"pass": token()}):
                    pass
            assert (await outcomes())["allowed"] == before + 10

    asyncio.run(run())


def test_a_user_who_asks_too_much_is_refused_until_the_minute_is_over(secure: SecureNats, settings: Settings) -> None:
    async def run() -> None:
        async with service(secure, settings, api_limit=3) as outcomes:
            for _ in range(2):  # the third was to find out that it is there
                async with browser(secure, user=SESSION, **{"pass": token()}):
                    pass
            await assert_refused(secure, user=SESSION, **{"pass": token()})
            assert (await outcomes())["limited"] == 1

    asyncio.run(run())


def test_the_listener_for_browsers_is_theirs_alone_and_theirs_is_no_other(
    secure: SecureNats, settings: Settings
) -> None:
    async def run() -> None:
        async with service(secure, settings) as outcomes:
            for user in ("publisher", "worker", "admin", "callout", "monitor"):  # a stolen password is no use out there
                await assert_refused(secure, user=user, **{"pass": secure.passwords[user]})
            with pytest.raises(InvalidHandshake):
                async with browser(secure, user=SESSION, origin="https://evil.example", **{"pass": token()}):
                    pass
            plain = secure.websocket.replace("wss:", "ws:")
            with pytest.raises((InvalidMessage, ConnectionError, EOFError)):
                async with browser(secure, url=plain, user=SESSION, **{"pass": token()}):
                    pass
            before = (await outcomes()).get("bad_token", 0)
            intruder = secure.settings(settings, "worker").model_copy(
                update={"nats_url": SecretStr(f"tls://{SESSION}:{token()}@localhost:{secure.nodes[0].port}")}
            )
            with pytest.raises(Exception, match="refuses us"):
                await Publisher.connect(intruder)
            assert (await outcomes())["bad_token"] > before

    asyncio.run(run())


def test_what_no_server_has_signed_is_no_question() -> None:
    forged = Signer(new_seed()).sign({"aud": "nats-authorization-request"})  # an account is no server
    for one in (forged, "", "a.b", "a.b.c", forged[:-3]):
        with pytest.raises(ValueError):  # noqa: PT011 - which is of no interest
            verified(one)


def test_half_of_the_settings_or_a_bad_seed_is_said_at_the_start(settings: Settings) -> None:
    whole = settings.model_copy(update={"jwt_secret": SecretStr(JWT_SECRET)})
    url, seed = SecretStr("tls://callout:x@localhost:4222"), new_seed()
    for update in ({"nats_callout_url": url}, {"nats_callout_seed": seed}):
        with pytest.raises(ConfigurationError, match="set both SLATE_NATS_CALLOUT_URL and SLATE_NATS_CALLOUT_SEED"):
            create_app(whole.model_copy(update=update))
    for bad in ("SU" + seed.get_secret_value()[2:], "nonsense", "SA", ""):
        with pytest.raises(ConfigurationError, match=r"python -m realtime\.nkey") as caught:
            create_app(whole.model_copy(update={"nats_callout_url": url, "nats_callout_seed": SecretStr(bad)}))
        assert len(bad) < 8 or bad not in str(caught.value)
    assert create_app(whole.model_copy(update={"nats_callout_url": url, "nats_callout_seed": seed})).state.callout


def test_many_come_at_once(secure: SecureNats, settings: Settings) -> None:
    async def one() -> None:
        async with browser(secure, user=SESSION, **{"pass": token()}) as page:
            await page.subscribe(f"spark.*.{SESSION}")
            assert not page.errors

    async def run() -> None:
        async with service(secure, settings) as outcomes:
            before = (await outcomes())["allowed"]
            await asyncio.gather(*(one() for _ in range(40)))
            assert (await outcomes())["allowed"] == before + 40

    asyncio.run(run())
