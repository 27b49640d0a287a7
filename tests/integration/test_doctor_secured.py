"""`slate doctor` on servers as `deploy/` secures them: roles, pooler, replica, certificates, clocks, limits."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import AccountInfo, AccountLimits, ClusterInfo, PeerInfo, StreamConfig, StreamInfo, StreamState
from pydantic import SecretStr

from connectors.jetstream import ensure_stream
from connectors.settings import Settings
from deploy.checks.access import check_access, nats_surprises
from deploy.checks.nats import stream_limits
from deploy.checks.postgres import check_postgres
from deploy.checks.replica import check_replica
from deploy.checks.row import Check
from deploy.checks.tls import check_tls
from deploy.processes import environment_of
from tests.support.clock import Clock
from tests.support.secure_nats import SecureNats
from tests.support.secure_postgres import SecurePostgres, secure_postgres
from tests.support.waiting import eventually

GIB = 1 << 30


@pytest.fixture(scope="module")
def secured() -> Iterator[SecurePostgres]:
    with secure_postgres() as stack:
        yield stack


@pytest.fixture(scope="module")
def secured_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    with SecureNats(tmp_path_factory.mktemp("nats")) as nats:
        yield nats


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    found = list(checks)
    for one in found:
        assert one.state == "ok" or one.remedy, one
    return {one.name: one for one in found}


@pytest.mark.parametrize("role", ["owner", "writer", "reader"])
def test_each_role_behind_the_pooler_is_found_to_have_what_it_needs(secured: SecurePostgres, role: str) -> None:
    checks = by_name(check_postgres(secured.settings(role)))
    assert {name for name, one in checks.items() if one.state != "ok"} == set()
    assert {"pooler", "permissions", "schema"} <= set(checks)
    assert ("not looked at" in checks) == (role != "owner")
    assert "pooler" not in by_name(check_postgres(secured.settings(role, direct=True)))


def test_a_right_that_is_taken_from_the_workers_is_missed(secured: SecurePostgres) -> None:
    with secured.primary.admin() as connection:
        connection.execute("REVOKE UPDATE ON slate.progress FROM slate_writer")
        connection.execute("REVOKE EXECUTE ON FUNCTION slate.ensure_month(date) FROM slate_writer")
        try:
            permissions = by_name(check_postgres(secured.settings("writer")))["permissions"]
        finally:
            connection.execute("GRANT UPDATE ON slate.progress TO slate_writer")
            connection.execute("GRANT EXECUTE ON FUNCTION slate.ensure_month(date) TO slate_writer")
    assert permissions.state == "fail"
    assert permissions.found == (
        "missing: EXECUTE on slate.ensure_month, which adds months to spark_events; UPDATE on slate.progress"
    ) or permissions.found == (
        "missing: UPDATE on slate.progress; EXECUTE on slate.ensure_month, which adds months to spark_events"
    )


@pytest.mark.parametrize(
    ("statement", "undo", "told"),
    [
        (
            "GRANT DELETE ON spark_usage TO slate_reader",
            "REVOKE DELETE ON spark_usage FROM slate_reader",
            "slate_reader, which reads, may DELETE public.spark_usage",
        ),
        (
            "GRANT SELECT (payload) ON spark_events TO grafana",
            "REVOKE SELECT (payload) ON spark_events FROM grafana",
            "grafana may read public.spark_events.payload, which holds what users wrote",
        ),
        (
            "GRANT SELECT ON spark_sessions TO PUBLIC",
            "REVOKE SELECT ON spark_sessions FROM PUBLIC",
            "everybody has SELECT on public.spark_sessions",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            "everybody may create objects in schema public",
        ),
        ("ALTER ROLE slate_writer CREATEDB", "ALTER ROLE slate_writer NOCREATEDB", "may create databases"),
        (
            "ALTER TABLE slate.gaps OWNER TO slate_writer",
            "ALTER TABLE slate.gaps OWNER TO slate_owner",
            "slate_writer owns slate.gaps, so it may drop it",
        ),
    ],
)
def test_a_right_that_nobody_needs_is_a_surprise(
    secured: SecurePostgres, monkeypatch: pytest.MonkeyPatch, statement: str, undo: str, told: str
) -> None:
    settings = secured.settings("writer")
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert by_name(check_access(settings))["access to PostgreSQL"].state == "ok"
    with secured.primary.admin() as connection:
        connection.execute(statement.encode())
        try:
            surprise = by_name(check_access(settings))["access to PostgreSQL"]
        finally:
            connection.execute(undo.encode())
    assert surprise.state == "warn"
    assert told in surprise.found


def test_a_replica_that_stops_and_its_slot_that_fills_the_disk_are_told(
    secured: SecurePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = secured.settings("writer")
    eventually(lambda: by_name(check_replica(settings))["replica"].state == "ok", 20)
    monkeypatch.setattr("deploy.checks.replica.SLOT_WARN", -1)
    assert set(by_name(check_replica(settings))) == {"replica"}, "a slot that is read from is nobody's business"
    secured.replica.stop()
    try:
        found = eventually(lambda: by_name(check_replica(settings)).get("slot slate_pg2"), 20)
        assert found is not None
        assert found.state == "warn"
        assert "pg_drop_replication_slot" in found.remedy
        away = by_name(check_replica(secured.settings("writer", direct=True)))["replica"]
        assert away.state == "warn"
        assert "SLATE_DB_REPLICA_HOST" in away.remedy
    finally:
        secured.replica.start()
    wrong = by_name(check_replica(settings.model_copy(update={"db_replica_name": "spark"})))["replica"]
    assert (wrong.state, wrong.found) == ("warn", "it is no standby, or does not replay")


def test_certificates_that_end_soon_are_told_by_server(secured: SecurePostgres) -> None:
    settings = secured.settings("writer", direct=True)
    assert {one.state for one in check_tls(settings)} == {"ok"}
    secured.replica.renew(secured.authority.issue("postgresql", "localhost,127.0.0.1,127.0.0.2", days=10))
    soon = eventually(lambda: [one for one in check_tls(settings) if one.state == "warn"], 20)
    assert [one.found.partition(":")[0] for one in soon][:1] == ["127.0.0.2"]
    assert "9 days" in soon[0].found or "10 days" in soon[0].found
    secured.replica.renew(secured.authority.issue("postgresql", "localhost,127.0.0.1,127.0.0.2", days=1))
    last = eventually(lambda: [one for one in check_tls(settings) if one.state == "fail"], 20)
    assert "certificates.sh" in last[0].remedy
    secured.replica.renew(secured.authority.issue("postgresql", "localhost,127.0.0.1,127.0.0.2"))


def test_passwords_that_cross_a_network_in_the_clear_are_told(settings: Settings) -> None:
    other = settings.model_copy(
        update={
            "db_host": "db.example",
            "nats_url": SecretStr("nats://u:p@nats.example:4222"),
            "redis_host": "redis.example",
        }
    )
    found = by_name(check_tls(other))
    assert {name: one.state for name, one in found.items()} == {
        "TLS of PostgreSQL": "warn",
        "TLS of NATS": "warn",
        "TLS of Redis": "warn",
    }
    assert list(check_tls(settings)) == [], "this machine is no network"


@pytest.mark.parametrize("user", ["worker", "admin"])
def test_the_users_of_nats_are_found_to_have_no_more_than_they_need(
    secured_nats: SecureNats, settings: Settings, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    asyncio.run(ensure_stream(secured_nats.settings(settings, "admin")))
    theirs = secured_nats.settings(settings, user)
    for name, value in environment_of(theirs).items():
        monkeypatch.setenv(name, value)
    assert by_name(check_access(theirs))["access to NATS"].state == "ok"
    tls = by_name(check_tls(theirs))["TLS of NATS"]
    assert tls.state == "ok"


def test_a_user_of_nats_without_limits_is_a_surprise(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    found = by_name(check_access(settings))["access to NATS"]
    assert found.state == "warn"
    assert "slate may publish to any subject; slate may read any subject" in found.found


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ({"user": "u", "permissions": {"publish": {"allow": ["spark.>"]}, "subscribe": {"allow": ["_INBOX.>"]}}}, []),
        (
            {"user": "u", "permissions": {"publish": {"allow": ["$JS.API.>"]}, "subscribe": {"allow": ["a"]}}},
            ["u may delete and read any stream"],
        ),
        (
            {"user": "u", "permissions": {"publish": {"allow": [">"]}, "subscribe": {"deny": ["x"]}}},
            ["u may publish to any subject", "u may read any subject"],
        ),
        (
            {
                "user": "u",
                "account": "SYS",
                "permissions": {"publish": {"allow": ["a"]}, "subscribe": {"allow": ["a"]}},
            },
            ["u is of the system account"],
        ),
    ],
)
def test_what_a_user_of_nats_may_do_too_much(user: dict[str, Any], told: list[str]) -> None:
    assert nats_surprises(user) == told


def limits(*, max_bytes: int = -1, max_age: float = 0, used: int = 0, most: int = -1, **more: Any) -> dict[str, Check]:
    state = StreamState(messages=1, bytes=used, first_seq=1, last_seq=1, consumer_count=0)
    config = StreamConfig(name="SPARK", max_bytes=max_bytes, max_age=max_age)
    account = AccountInfo.from_response(
        {
            "memory": 0,
            "storage": used,
            "streams": 1,
            "consumers": 0,
            "limits": dict.fromkeys((field.name for field in fields(AccountLimits)), -1) | {"max_storage": most},
            "api": {"total": 0, "errors": 0},
        }
    )
    return by_name(iter(stream_limits(StreamInfo(config=config, state=state, **more), account)))


def test_a_stream_that_grows_for_ever_is_told_and_one_with_a_limit_is_not() -> None:
    assert limits()["stream limits"].state == "warn"
    assert limits(max_age=86_400) == {}
    assert limits(max_bytes=GIB) == {}
    assert limits(most=GIB)["account limits"].state == "ok"


def test_an_account_that_is_nearly_full_is_told_before_events_are_refused() -> None:
    assert limits(max_age=1, used=GIB // 2, most=GIB)["account limits"].state == "ok"
    full = limits(max_age=1, used=GIB * 9 // 10, most=GIB)["account limits"]
    assert (full.state, full.found) == ("warn", "921.6 MiB of 1.0 GiB used (90%)")


def test_a_copy_of_the_stream_that_is_away_or_behind_is_told() -> None:
    peers = [PeerInfo(name="b", current=True, offline=False), PeerInfo(name="c", current=False, offline=True)]
    found = limits(max_age=1, cluster=ClusterInfo(leader="a", replicas=peers))["stream copies"]
    assert (found.state, found.found) == ("warn", "3, leader a; behind or away: c")
    well = limits(max_age=1, cluster=ClusterInfo(leader="a", replicas=peers[:1]))["stream copies"]
    assert (well.state, well.found) == ("ok", "2, leader a")


@pytest.mark.parametrize(("shift", "state"), [(0, "ok"), (30, "warn"), (-600, "fail")])
def test_a_clock_that_is_wrong_is_told(settings: Settings, shift: int, state: str, tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-c",
        "from deploy.checks.clock import check_clock; from connectors.settings import *\n"
        "print([(one.name, one.state, one.found) for one in check_clock(Settings.load(local=False))])",
    ]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment_of(settings)}
    with Clock(tmp_path, shift) as clock:
        done = subprocess.run(
            program, env=environment | clock.environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
        )
    ((name, found_state, found),) = eval(done.stdout)
    assert (name, found_state) == ("clock", state), found
    assert {"PostgreSQL", "NATS", "Redis"} == {one.split()[0] for one in found.split(", ")}
