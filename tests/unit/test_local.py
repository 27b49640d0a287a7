"""The directory of a local stack: lock, ports, passwords, announcement."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.errors import ConfigurationError
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.local import LocalStack


def stack(**named: object) -> LocalStack:
    return LocalStack(Settings.load(local=False, **named))


def test_a_server_is_made_for_each_address_that_is_not_set() -> None:
    with stack().locked():
        assert [one.name for one in stack().servers()] == ["PostgreSQL", "NATS", "Valkey"]
        assert [one.name for one in stack(nats_url="nats://there:4222").servers()] == ["PostgreSQL", "Valkey"]
        named = stack(db_host="there", nats_url="nats://there", redis_host="there")
        assert named.servers() == []
        assert named.settings([]).db_host == "there"


def test_ports_and_passwords_are_kept() -> None:
    with stack().locked():
        first = [one.environment() for one in stack().servers()]
        assert [one.environment() for one in stack().servers()] == first
        assert len(first[0]["SLATE_DB_PASSWORD"]) >= 32


def test_passwords_outlive_a_time_with_another_server() -> None:
    with stack().locked():
        first = stack().servers()[0].environment()
        stack(db_host="there").servers()
        assert stack().servers()[0].environment() == first


def test_a_taken_port_is_replaced() -> None:
    with stack().locked(), socket.socket() as taken:
        state = Path(".slate/state.json")
        port = free_port()
        state.write_text(json.dumps({"valkey": {"port": port}}))
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert stack().servers()[2].port != port
        free = free_port()
        state.write_text(json.dumps({"valkey": {"port": free}}))
        assert stack().servers()[2].port == free


def test_everything_is_private() -> None:
    with stack().locked():
        servers = stack().servers()
        with stack().announced(servers, 9090):
            modes = {str(one): stat.S_IMODE(one.stat().st_mode) for one in Path(".slate").rglob("*")}
    assert stat.S_IMODE(Path(".slate").stat().st_mode) == 0o700
    assert {modes[f".slate/{name}"] for name in ("lock", "env", "state.json")} == {0o600}
    assert modes[".slate/log"] == 0o700


def test_other_commands_find_the_servers_while_they_run() -> None:
    here = stack()
    with here.locked():
        servers = here.servers()
        with here.announced(servers, 9191):
            found = Settings.load()
            assert found.db_port == servers[0].port
            assert found.nats_url is not None
            assert found.nats_url.get_secret_value() == servers[1].environment()["NATS_URL"]
            assert found.redis_port == servers[2].port
            assert found.metrics_port == 9191
        assert Settings.load().db_host is None


def test_the_directory_has_one_holder() -> None:
    with stack().locked():
        code = (
            "from deploy.local import LocalStack; from connectors.settings import Settings\n"
            "with LocalStack(Settings.load(local=False)).locked(): pass"
        )
        second = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert f"already runs here (pid {os.getpid()}" in second.stderr
    with stack().locked():
        pass  # it is free again


def test_a_role_without_a_host_is_refused_unless_it_is_ours() -> None:
    with pytest.raises(ConfigurationError, match="SLATE_DB_USER and SLATE_DB_PASSWORD is set"):
        stack(db_user="me", db_password="x")
    stack(db_user="slate", db_name="spark")
    stack(db_user="me", db_password="x", db_host="there")


def test_a_damaged_state_is_explained() -> None:
    with stack().locked():
        Path(".slate/state.json").write_text("{")
        with pytest.raises(ConfigurationError, match="damaged"):
            stack().servers()


def test_a_large_log_is_put_aside() -> None:
    here = stack()
    with here.locked():
        log = here.log("ingest")
        log.write_bytes(b"x" * ((10 << 20) + 1))
        assert here.log("ingest") == log
        assert not log.exists()
        assert log.with_suffix(".log.old").exists()
