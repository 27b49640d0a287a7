"""Redis as `deploy/redis/` has it: all of ours works for its user, and nothing else does for anybody."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis as sync
from pydantic import SecretStr
from redis.asyncio import Redis
from structlog.testing import capture_logs

from connectors.breaker import Breaker, BreakerFigures, CircuitOpenError
from connectors.limits import Limiter, LimitExceededError, Window
from connectors.read_cache import ReadCache
from connectors.redis_erasure import erase_traces, leases
from connectors.settings import Settings
from deploy.checks.redis import check_redis
from deploy.checks.tls import check_tls
from realtime.backend import redis_of
from realtime.preview_cache import PreviewCache, View
from realtime.quota import Quota
from tests.support.certificates import Authority
from tests.support.redis_client import in_loop
from tests.support.secure_redis import SecureRedis

REFUSED = r"(?i)permission|can't access|not allowed"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecureRedis]:
    server = SecureRedis(tmp_path_factory.mktemp("redis"), authority, password=secrets.token_hex(16))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def secured(server: SecureRedis, settings: Settings, authority: Authority) -> Settings:
    """Settings of this Redis, with the plain servers of other tests."""
    return settings.model_copy(update=server.fields() | {"db_sslmode": "disable"})


def client_of(settings: Settings) -> Redis:
    client = redis_of(settings)
    assert client is not None
    return client


@in_loop
async def test_limits_leases_breakers_quotas_and_caches_do_all_their_work(secured: Settings) -> None:
    with capture_logs() as logs:
        async with client_of(secured) as client:
            limiter = Limiter(client)
            window = Window("inputs", 1, 60)
            await limiter.acquire([("one", window)])
            with pytest.raises(LimitExceededError):
                await limiter.acquire([("one", window)])
            await limiter.lease("session", "holder", 1, 60)
            with pytest.raises(LimitExceededError):
                await limiter.lease("session", "other", 1, 60)
            await limiter.release("session", "holder")

            breaker = Breaker(client, "unity", BreakerFigures(open_s=60))
            for _ in range(5):
                await breaker.failed(await breaker.admit())
            with pytest.raises(CircuitOpenError):
                await breaker.admit()
            assert await breaker.state() == "open"

            previews, view = PreviewCache(client), View("Game@1", "Main", 640, 480)
            revision, _ = await previews.find(view)
            await previews.store(view, revision, "frame")
            assert (await previews.find(view))[1] == "frame"
            await previews.changed(view.instance)
            assert (await previews.find(view))[1] is None

            async def load() -> bytes:
                return b"value"

            assert await ReadCache(client).get("figures", 60, load) == b"value"
            assert await ReadCache(client).get("figures", 60, load) == b"value"

            quota = Quota(secured, client)
            user = "6f1c2a4e-58f1-4d0c-9a59-3b7f2f0c1d11"
            await quota.connect(user, "s1")
            await quota.input(user)
            await quota.call(user, "createCube")
            await quota.check_tokens(user)
            await quota.used(user, 10)
            await quota.leave(user, "s1")
    troubles = [entry for entry in logs if entry["log_level"] in ("warning", "error")]
    assert [entry for entry in troubles if "Redis" in entry["event"]] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get("another"),
        lambda client: client.set("slates", "1"),
        lambda client: client.keys("*"),
        lambda client: client.scan(),
        lambda client: client.flushall(),
        lambda client: client.config_get("*"),
        lambda client: client.execute_command("ACL", "LIST"),
        lambda client: client.info(),
        lambda client: client.execute_command("MONITOR"),
        lambda client: client.execute_command("DEBUG", "SLEEP", "0"),
        lambda client: client.replicaof("NO", "ONE"),
        lambda client: client.eval("return redis.call('GET', 'another')", 0),
        lambda client: client.publish("slate:anything", "1"),
        lambda client: client.shutdown(),
    ],
)
def test_our_user_may_touch_no_other_keys_and_no_command_that_we_do_not_use(
    secured: Settings, call: Callable[[sync.Redis], object]
) -> None:
    with sync.Redis(ssl=True, **secured.redis_login()) as client:
        assert client.ping()
        with pytest.raises((sync.exceptions.NoPermissionError, sync.exceptions.ResponseError), match=REFUSED):
            call(client)


def test_an_administrator_finds_and_deletes_what_a_user_left_and_does_nothing_else(
    server: SecureRedis, secured: Settings
) -> None:
    user = "6f1c2a4e-58f1-4d0c-9a59-3b7f2f0c1d12"
    with sync.Redis(ssl=True, **secured.redis_login()) as client:
        client.set(f"slate:tokens:{user}:2026-11", 5, ex=60)
        admin = secured.model_copy(update={"redis_user": "admin", "redis_password": SecretStr(server.admin_password)})
        assert leases(admin, user) == []
        assert erase_traces(admin, user, ["s1"]) > 0
        assert client.get(f"slate:tokens:{user}:2026-11") is None
    with sync.Redis(ssl=True, **admin.redis_login()) as client, pytest.raises(sync.exceptions.NoPermissionError):
        client.get("slate:tokens:anything")


def test_nobody_else_may_do_anything(secured: Settings) -> None:
    login = secured.redis_login() | {"username": None}
    with sync.Redis(ssl=True, **login) as client, pytest.raises(sync.exceptions.AuthenticationError):
        client.ping()
    login.pop("password")
    with sync.Redis(ssl=True, **login) as client, pytest.raises(sync.exceptions.RedisError, match=r"(?i)auth"):
        client.ping()


def test_there_is_no_way_in_without_tls(server: SecureRedis) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as plain:
        plain.sendall(b"PING\r\n")
        with suppress(ConnectionResetError):
            assert b"PONG" not in plain.recv(64)


def test_the_doctor_tells_a_good_certificate_from_a_strange_one_and_from_one_that_ends_soon(
    server: SecureRedis, secured: Settings, authority: Authority, tmp_path: Path
) -> None:
    only_redis = secured.model_copy(update={"db_host": None, "nats_url": None})
    assert [one.state for one in check_redis(only_redis)] == ["ok"]
    found = {one.name: one for one in check_tls(only_redis)}
    assert {one.state for one in found.values()} == {"ok"}
    assert "valid until" in found["TLS of Redis"].found
    stranger = Authority(tmp_path / "stranger")
    strange = {one.name: one for one in check_tls(only_redis.model_copy(update={"ca_file": stranger.file}))}
    assert strange["TLS of Redis"].state == "fail"
    assert "SLATE_CA_FILE" in strange["TLS of Redis"].remedy
    other_name = {one.name: one for one in check_tls(only_redis.model_copy(update={"redis_host": "127.0.0.2"}))}
    assert other_name["TLS of Redis"].state == "fail"


def test_a_wrong_password_is_said_by_its_setting(secured: Settings) -> None:
    (check,) = check_redis(secured.model_copy(update={"redis_password": SecretStr("wrong")}))
    assert check.state == "warn"
    assert "SLATE_REDIS_USER, _PASSWORD" in check.remedy
    assert "wrong" not in check.found.replace("WRONGPASS", "")


def test_an_authority_that_did_not_sign_is_refused(secured: Settings) -> None:
    with (
        sync.Redis(ssl=True, **{**secured.redis_login(), "ssl_ca_certs": None}) as client,
        pytest.raises(sync.exceptions.ConnectionError, match="certificate"),
    ):
        client.ping()
