"""`slate doctor` against servers in good and in bad health."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import nats
import pytest
from psycopg import sql
from pydantic import SecretStr

from connectors.settings import Settings
from deploy.checks.machine import check_disk
from deploy.checks.row import Check, State
from deploy.doctor import examine
from deploy.embedded import free_port
from deploy.processes import environment_of
from deploy.servers import NatsServer
from tests.conftest import MakeSettings
from tests.support.stack import Stack, connect

Examine = Callable[[Settings], dict[str, Check]]
"""Examine with these settings in the environment; gives the checks by name (the last of a name)."""


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examine:
    def run(settings: Settings) -> dict[str, Check]:
        for name, value in environment_of(settings).items():
            monkeypatch.setenv(name, value)
        begin = time.monotonic()
        checks = examine()
        assert time.monotonic() - begin < 20
        for one in checks:
            assert one.state == "ok" or one.remedy, f"{one} says nothing about what to do"
            assert "not expected" not in one.remedy, one
        return {one.name: one for one in checks}

    return run


def states(checks: Mapping[str, Check], state: State) -> set[str]:
    return {name for name, one in checks.items() if one.state == state}


async def publish(settings: Settings, count: int) -> None:
    client = await nats.connect(settings.nats_servers())
    try:
        for number in range(count):
            await client.jetstream().publish(f"spark.delta.s{number}", b"{}")
    finally:
        await client.close()


def test_a_healthy_stack_of_slate_up_passes_every_check(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".slate").mkdir()
    Path(".slate/env").write_text("".join(f"{name}={value}\n" for name, value in environment_of(settings).items()))
    checks = {one.name: one for one in examine()}
    assert states(checks, "warn") == {"durability"}  # the server of the tests has fsync off, and is told so
    assert states(checks, "ok") == set(checks) - {"durability"}
    assert {"PostgreSQL", "schema", "permissions", "partitions", "NATS", "JetStream", "stream", "lag"} <= set(checks)


def test_an_empty_database_and_a_missing_stream_ask_for_slate_migrate(
    empty_settings: Settings, examined: Examine
) -> None:
    checks = examined(empty_settings)
    assert states(checks, "fail") == {"schema", "stream"}
    assert "0001" in checks["schema"].found
    assert "slate migrate" in checks["schema"].remedy
    assert "slate migrate" in checks["stream"].remedy


def test_messages_that_nobody_writes_are_counted(settings: Settings, examined: Examine) -> None:
    asyncio.run(publish(settings, 50))
    lag = examined(settings)["lag"]
    assert lag.state == "warn"
    assert lag.found.startswith("50 messages wait")
    assert "flows.ingest" in lag.remedy


def test_lag_is_what_follows_the_written_position(make_settings: MakeSettings, examined: Examine) -> None:
    settings = make_settings(partitions=1)
    asyncio.run(publish(settings, 50))
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO slate.progress (stream, partition, created, seq) VALUES (%s, -1, now(), 30)",
            (settings.stream,),
        )
    lag = examined(settings)["lag"]
    assert (lag.state, lag.found) == ("ok", "20 messages wait")


def test_what_is_stored_and_not_counted_is_told_with_the_worker_to_start(settings: Settings, examined: Examine) -> None:
    assert examined(settings)["rollups"].state == "ok"
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO slate.progress (stream, partition, created, seq, read, stored) VALUES (%s, 0, now(), 9, 5, 5)",
            (settings.stream,),
        )
        never = examined(settings)["rollups"]
        assert (never.state, never.found) == ("warn", "5 stored messages, and none was ever counted")
        assert "flows.rollups" in never.remedy
        connection.execute(
            "INSERT INTO slate.rollup_progress (stream, partition, created, seq, read, updated_at)"
            " VALUES (%s, 0, now(), 4, 2, now() - interval '2 minutes')",
            (settings.stream,),
        )
        stuck = examined(settings)["rollups"]
        assert stuck.state == "warn"
        assert stuck.found.startswith("3 stored messages are not counted, for 12")


def test_alerts_that_reach_nobody_are_told_with_the_receiver(settings: Settings, examined: Examine) -> None:
    assert examined(settings)["alert rules"].found.endswith("told to nobody")
    with connect(settings) as connection:
        connection.execute(
            "WITH a AS (INSERT INTO slate.alerts"
            " (stream, rule, fingerprint, state, labels, annotations, reason, starts_at, created_at)"
            " VALUES (%s, 'r', 'f', 'firing', '{}', '{}', '', now(), now() - interval '6 minutes') RETURNING id)"
            " INSERT INTO slate.alert_deliveries (alert, receiver, error) SELECT id, 'slack', '503' FROM a",
            (settings.stream,),
        )
    stuck = examined(settings)["receiver slack"]
    assert stuck.state == "warn"
    assert stuck.found == "1 alerts wait for minutes, 0 of a day never arrived: 503"


def test_a_rules_file_that_is_not_right_is_reported(settings: Settings, examined: Examine, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[[rules]]\nname = 'x'\n")
    check = examined(settings.model_copy(update={"alert_rules": tmp_path / "rules.toml"}))["alert rules"]
    assert check.state == "fail"
    assert "line 1: rules[0] (x), signal: is missing" in check.found


def test_a_role_without_rights_is_told_which_it_lacks(settings: Settings, examined: Examine) -> None:
    with connect(settings) as connection:
        database = sql.Identifier(settings.db_name)
        connection.execute("DROP ROLE IF EXISTS weak")
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO weak").format(database))
        connection.execute("GRANT USAGE ON SCHEMA slate TO weak")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA slate TO weak")
        try:
            weak = settings.model_copy(update={"db_user": "weak", "db_password": SecretStr("weak")})
            permissions = examined(weak)["permissions"]
            assert permissions.state == "fail"
            assert "public.spark_sessions" in permissions.found
            assert "SLATE_DB_USER" in permissions.remedy
        finally:
            connection.execute("DROP OWNED BY weak")
            connection.execute("DROP ROLE weak")


def test_a_missing_month_is_reported(settings: Settings, examined: Examine) -> None:
    with connect(settings) as connection:
        row = connection.execute(
            "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', "
            "'\"spark_events_\"YYYY_MM')"
        ).fetchone()
        assert row is not None
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(row[0])))
    partitions = examined(settings)["partitions"]
    assert partitions.state == "warn"
    assert row[0] in partitions.found


def test_what_retention_took_is_reported(settings: Settings, examined: Examine) -> None:
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO slate.progress (stream, partition, created) VALUES (%s, 0, now())", (settings.stream,)
        )
        connection.execute(
            "INSERT INTO slate.gaps (stream, partition, first_seq, last_seq, reason) VALUES (%s, 0, 1, 10, 'test')",
            (settings.stream,),
        )
    retention = examined(settings)["retention"]
    assert retention.state == "warn"
    assert retention.found.startswith("up to 10 messages left the stream")


def test_a_stream_with_other_partitions_is_reported(settings: Settings, examined: Examine) -> None:
    stream = examined(settings.model_copy(update={"partitions": 4}))["stream"]
    assert stream.state == "fail"
    assert "SLATE_PARTITIONS=4" in stream.found


def test_a_wrong_password_names_the_setting(settings: Settings, examined: Examine) -> None:
    checks = examined(settings.model_copy(update={"db_password": SecretStr("wrong")}))
    assert "password authentication failed" in checks["PostgreSQL"].found
    assert "SLATE_DB_PASSWORD" in checks["PostgreSQL"].remedy
    assert states(checks, "fail") == {"PostgreSQL"}


def test_nothing_configured_names_the_settings(examined: Examine) -> None:
    checks = examined(Settings.load(local=False, metrics_port=0))
    assert states(checks, "fail") == {"PostgreSQL", "NATS"}
    assert states(checks, "warn") == {"Redis"}
    assert "SLATE_DB_HOST" in checks["PostgreSQL"].remedy
    assert "NATS_URL" in checks["NATS"].remedy


def test_servers_that_are_not_there_are_reported_at_once(settings: Settings, examined: Examine) -> None:
    port = free_port()
    gone = {"db_port": port, "nats_url": SecretStr(f"nats://127.0.0.1:{port}"), "redis_port": port}
    begin = time.monotonic()
    checks = examined(settings.model_copy(update=gone))
    assert time.monotonic() - begin < 10
    assert states(checks, "fail") == {"PostgreSQL", "NATS"}
    assert states(checks, "warn") == {"Redis"}
    assert "SLATE_DB_PORT" in checks["PostgreSQL"].remedy
    assert "REDIS_PORT" in checks["Redis"].remedy


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def test_servers_that_say_nothing_do_not_hold_it_up(settings: Settings, examined: Examine, silent_port: int) -> None:
    silent = {
        "db_port": silent_port,
        "nats_url": SecretStr(f"nats://127.0.0.1:{silent_port}"),
        "redis_port": silent_port,
        "metrics_port": silent_port,
    }
    checks = examined(settings.model_copy(update=silent))
    assert states(checks, "fail") == {"PostgreSQL", "NATS"}
    assert states(checks, "warn") == {"Redis", "metrics"}
    assert "another program" in checks["metrics"].found


def test_paused_servers_do_not_hold_it_up(settings: Settings, stack: Stack, examined: Examine) -> None:
    for server in (stack.postgres, stack.nats_server, stack.valkey):
        server.pause()
    try:
        checks = examined(settings)
    finally:
        stack.ensure_running()
    assert states(checks, "fail") == {"PostgreSQL", "NATS"}
    assert states(checks, "warn") == {"Redis"}


class CoreOnly(NatsServer):
    """NATS without JetStream."""

    def _prepare(self) -> None:
        self._write("nats.conf", f'listen: "127.0.0.1:{self.port}"')

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def test_nats_without_jetstream_is_told_how_to_enable_it(tmp_path: Path, settings: Settings, examined: Examine) -> None:
    server = CoreOnly(tmp_path / "nats", user="slate", password="x")
    server.start()
    try:
        url = SecretStr(server.environment()["NATS_URL"])
        checks = examined(settings.model_copy(update={"nats_url": url}))
    finally:
        server.kill()
    assert checks["JetStream"].state == "fail"
    assert "jetstream {}" in checks["JetStream"].remedy


def test_settings_that_cannot_be_read_are_all_that_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_PARTITIONS", "many")
    (check,) = examine()
    assert (check.name, check.state) == ("settings", "fail")
    assert "SLATE_PARTITIONS" in check.remedy


def test_the_disk_of_a_local_stack_is_looked_at(tmp_path: Path, settings: Settings) -> None:
    local = settings.model_copy(update={"dir": tmp_path})
    assert list(check_disk(local)) == []
    (tmp_path / "lock").touch()
    (disk,) = check_disk(local)
    assert str(tmp_path) in disk.found


def test_the_command_says_all_and_its_exit_code_tells_health(empty_settings: Settings) -> None:
    sick = doctor(empty_settings)
    assert sick.returncode == 1
    assert "slate migrate" in sick.stdout
    assert sick.stderr == ""
    migrate = command(empty_settings, "migrate")
    assert migrate.returncode == 0, migrate.stderr
    assert "applied 0001" in migrate.stdout
    assert "up to date" in command(empty_settings, "migrate").stdout
    healthy = doctor(empty_settings)
    assert healthy.returncode == 0, healthy.stdout
    secrets = [one.get_secret_value() for one in (empty_settings.db_password, empty_settings.nats_url) if one]
    assert not [one for one in secrets if one in healthy.stdout + sick.stdout]


def test_the_command_stays_calm_when_nothing_is_there(settings: Settings) -> None:
    port = free_port()
    gone = doctor(settings.model_copy(update={"db_port": port, "nats_url": SecretStr(f"nats://127.0.0.1:{port}")}))
    assert gone.returncode == 1
    assert gone.stderr == ""
    assert "SLATE_DB_PORT" in gone.stdout


def doctor(settings: Settings) -> subprocess.CompletedProcess[str]:
    return command(settings, "doctor")


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment_of(settings),
        timeout=60,
    )
