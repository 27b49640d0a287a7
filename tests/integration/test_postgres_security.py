"""PostgreSQL, its replica and PgBouncer as `deploy/` secures them, and real processes in the roles of `sql/roles/`."""

import asyncio
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr

from connectors.settings import Settings
from deploy.servers import NatsServer
from flows.audit import audit
from tests.support.api import Api
from tests.support.certificates import Authority
from tests.support.failover import KeptWorker
from tests.support.rollups import counted
from tests.support.secure_postgres import HOSTS, SecurePostgres, SecureServer, secure_postgres
from tests.support.service import ADMIN, OTHER, bearer, serving
from tests.support.sessions import JWT_SECRET
from tests.support.stack import connect
from tests.support.traffic import Traffic, assert_drained_exactly_once, last_sequence
from tests.support.waiting import eventually
from tests.support.worker import Worker

ENDLESS = ("/live", "/stream")


@pytest.fixture(scope="module")
def secured() -> Iterator[SecurePostgres]:
    with secure_postgres() as stack:
        yield stack


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = NatsServer(tmp_path_factory.mktemp("nats"), user="slate", password=secrets.token_hex(16))
    server.start()
    yield server.environment()["NATS_URL"]
    server.kill()


@pytest.fixture
def admin(secured: SecurePostgres) -> Iterator[psycopg.Connection]:
    with secured.primary.admin() as connection:
        yield connection


def slate(secured: SecurePostgres, nats_url: str, *command: str) -> str:
    """Run `slate` as the owner, through PgBouncer."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *command],
        check=False,
        env={"PATH": "/usr/bin:/bin", **secured.environment("owner", nats_url=nats_url, stream="SECURE")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- work ----------------------------------------------------------------------------------------------------------


def test_each_role_does_its_whole_work_through_pgbouncer(
    secured: SecurePostgres, nats_url: str, admin: psycopg.Connection
) -> None:
    assert "Schema: up to date" in slate(secured, nats_url, "migrate")
    writer = secured.settings("writer", nats_url=nats_url, stream="SECURE", audit_every_s=1)
    with Worker(writer) as ingest, Worker(writer, flow="flows.rollups") as rollups:
        with Traffic(writer, 5000, rate=5000) as traffic:
            pass
        assert_drained_exactly_once(admin, writer, traffic.events)
        eventually(lambda: counted(admin) == 5000, 30, what="all is counted")
        eventually(lambda: rollups.metrics().get("spark_rollup_drift{rollup=usage}") == 0, 20, what="it has audited")
        output = slate(secured, nats_url, "maintain")
        assert "no difference" in output
        slate(secured, nats_url, "audit", "--repair")
        owner = secured.settings("owner", nats_url=nats_url, stream="SECURE")
        today = datetime.now(UTC).date()
        assert list(audit(owner, today, today.replace(year=today.year + 1))) == []
        for worker in (ingest, rollups):
            worker.terminate()
            assert worker.wait() == 0
            assert not re.search("permission denied|cannot (write|evaluate|audit|see)", worker.log.read_text())
    users = admin.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'slate')")
    assert users.fetchall() == [("slate_owner",)]


def test_the_http_service_reads_from_the_replica_and_without_it_from_the_primary(
    secured: SecurePostgres, admin: psycopg.Connection
) -> None:
    admin.execute("INSERT INTO spark_sessions (session_id, started_at) VALUES ('of-the-api', now())")
    eventually(secured.caught_up, 20)
    settings = secured.settings("reader", jwt_secret=SecretStr(JWT_SECRET), api_limit=0)
    with Api(settings) as api, httpx.Client(base_url=api.url, headers=bearer(permissions=ADMIN), timeout=20) as client:
        health = client.get("/health").json()
        assert (health["primary"], health["replica"]) == (True, True)
        paths = read_paths(client)
        assert len(paths) > 12
        for path in paths:
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)
        secured.replica.kill()
        assert client.get("/v1/sessions/of-the-api").status_code == 200
        eventually(lambda: client.get("/health").json()["replica"] is False, 10)
        assert client.get("/v1/sessions/of-the-api").status_code == 200
        secured.replica.start()
        eventually(lambda: client.get("/health").json()["replica"], 20)


def read_paths(client: httpx.Client) -> list[str]:
    """All that is read without naming anything but a session, and ends."""
    paths = client.get("/openapi.json").json()["paths"]
    gets = [path.replace("{session_id}", "of-the-api") for path, methods in paths.items() if "get" in methods]
    return [path for path in gets if path.startswith("/v1/") and "{" not in path and not path.endswith(ENDLESS)]


def test_a_quota_is_read_as_the_reader(secured: SecurePostgres, admin: psycopg.Connection) -> None:
    admin.execute(
        "INSERT INTO spark_usage (session_id, ts, model, tokens_prompt, user_id) VALUES ('q', now(), 'm', 41, %s)",
        (OTHER,),
    )

    async def check() -> None:
        async with serving(secured.settings("reader", quota_tokens=42)) as client:
            me = await client.get("/v1/me", headers=bearer(OTHER))
            assert me.status_code == 200, me.text

    asyncio.run(check())


def test_workers_go_on_through_pgbouncer_after_a_failover(secured: SecurePostgres, nats_url: str) -> None:
    writer = secured.settings("writer", nats_url=nats_url, stream="SECURE")
    slate(secured, nats_url, "migrate")
    before = stored(secured)
    with KeptWorker(writer):
        with Traffic(writer, 2000, rate=1000, seed=5):
            eventually(lambda: stored(secured) > before + 300, 30, what="it writes")
            secured.primary.kill()
            secured.promote()
        last = asyncio.run(last_sequence(writer))
        eventually(lambda: stored(secured) == last, 30, what="all is stored on the new primary")
        assert secured.primary.value("SELECT bool_and(lost = 0) FROM slate.ledger")
    secured.rebuild()
    eventually(secured.caught_up, 30, what="the old primary follows the new one")
    with connect(secured.settings("reader", db_name="spark_ro")) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def stored(secured: SecurePostgres) -> int:
    return int(secured.primary.value("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress"))


# ---- connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False], ids=["server", "pooler"])
def test_a_connection_without_tls_is_refused(secured: SecurePostgres, direct: bool) -> None:
    settings = secured.settings("writer", direct=direct, db_sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match=r"no encryption|SSL required"):
        connect(settings)


@pytest.mark.parametrize("direct", [True, False], ids=["server", "pooler"])
def test_a_server_of_another_authority_is_refused(secured: SecurePostgres, direct: bool, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    settings = secured.settings("writer", direct=direct, ca_file=other.file)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(settings)


@pytest.mark.parametrize("which", ["primary", "pooler"])
def test_a_certificate_is_renewed_while_it_runs_and_one_for_another_host_is_refused(
    secured: SecurePostgres, which: str
) -> None:
    server = secured.primary if which == "primary" else secured.pooler
    settings = secured.settings("writer", direct=which == "primary")
    host = server.host if isinstance(server, SecureServer) else "127.0.0.1"

    def why() -> str:
        try:
            connect(settings, host=host).close()
        except psycopg.OperationalError as error:
            return str(error)
        return "well"

    assert why() == "well"
    server.renew(secured.authority.issue("elsewhere", "elsewhere.example"))
    try:
        eventually(lambda: "does not match" in why(), 10, what="a client refuses it")
        if which == "primary":
            pooled = secured.settings("writer")
            secured.pooler.stop()
            secured.pooler.start()
            eventually(lambda: not reachable(pooled), 10, what="PgBouncer refuses it, too")
    finally:
        server.renew(secured.authority.issue("again", HOSTS))
    eventually(lambda: why() == "well", 10, what="the new one is shown")
    eventually(lambda: reachable(secured.settings("writer")), 20, what="PgBouncer is back")


def reachable(settings: Settings) -> bool:
    try:
        connect(settings, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize(
    ("role", "database"),
    [("slate_replica", "spark"), ("slate_owner", "postgres"), ("grafana", "template1"), ("postgres", "spark")],
)
def test_a_role_comes_to_its_database_only(secured: SecurePostgres, role: str, database: str) -> None:
    password = secured.password(role) if role != "postgres" else "unknown"
    settings = secured.settings("writer", direct=True)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        connect(settings, user=role, password=password, dbname=database)


@pytest.mark.parametrize("direct", [True, False], ids=["server", "pooler"])
def test_a_wrong_password_is_refused(secured: SecurePostgres, direct: bool) -> None:
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        connect(secured.settings("writer", direct=direct), password="wrong")


def test_a_new_password_counts_at_once_through_pgbouncer(secured: SecurePostgres, admin: psycopg.Connection) -> None:
    secured.new_password("slate_reader")
    eventually(lambda: reachable(secured.settings("reader")), 10)


def test_limits_are_those_of_the_role(secured: SecurePostgres) -> None:
    shown = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    wanted = {"owner": ("2h", "2h"), "writer": ("30min", "1min"), "reader": ("10s", "10s"), "grafana": ("5s", "10s")}
    for role, limits in wanted.items():
        with connect(secured.settings(role)) as connection:
            assert connection.execute(shown).fetchone() == limits


def test_nothing_of_a_row_a_parameter_or_a_password_is_in_the_log(secured: SecurePostgres) -> None:
    secret = secrets.token_hex(8)
    with connect(secured.settings("writer")) as connection:
        with pytest.raises(errors.CheckViolation):
            connection.execute(
                "INSERT INTO spark_previews (session_id, engine, ts, status) VALUES (%s, 'unity', now(), 'odd')",
                (secret,),
            )
        connection.execute("INSERT INTO slate.event_ids VALUES ('00000000-0000-4000-8000-0000000000aa')")
        with pytest.raises(errors.UniqueViolation):
            connection.execute(
                f"INSERT INTO slate.event_ids VALUES ('00000000-0000-4000-8000-0000000000aa') --{secret}"
            )
        connection.execute("SELECT pg_sleep(1.1), %s::text AS slow", (secret,))
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"ALTER ROLE slate_owner PASSWORD '{secret}'")
    logs = [server.log.read_text() for server in (secured.primary, secured.replica, secured.pooler)]
    assert "event_ids_pkey" in logs[0]
    assert "AS slow" in logs[0]
    assert not any(secret in log or "0000000000aa" in log for log in logs)
    for role in ("slate_owner", "slate_writer", "slate_reader", "slate_pooler", "slate_replica"):
        assert not any(secured.password(role) in log for log in logs)
