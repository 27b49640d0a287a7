"""The units as install.sh installs them, started by a real systemd that is alone with them."""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.servers import PostgresServer
from tests.integration.test_health import events, publish
from tests.support.box import Box
from tests.support.sessions import JWT_SECRET
from tests.support.waiting import eventually

ROOT: Final = Path(__file__).parents[2]
WORKERS: Final = ("slate-ingest@0-3", "slate-ingest@rest", "slate-rollups@0")

pytestmark = pytest.mark.chaos


def install(box: Box, settings: Settings, port: int) -> None:
    """What the documentation says, but for the environment, which is that of the tests."""
    box.done("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "slate")
    password = settings.db_password.get_secret_value() if settings.db_password else ""
    nats = settings.nats_url.get_secret_value() if settings.nats_url else ""
    secrets = {
        "migrate": {"SLATE_DB_PASSWORD": password, "NATS_URL": nats},
        "maintain": {"SLATE_DB_PASSWORD": password},
        "ingest": {"SLATE_DB_PASSWORD": password, "NATS_URL": nats},
        "rollups": {"SLATE_DB_PASSWORD": password, "NATS_URL": nats, "SLACK_WEBHOOK_URL": ""},
        "api": {"SLATE_DB_PASSWORD": password, "NATS_URL": nats, "SLATE_JWT_SECRET": JWT_SECRET},
    }
    for service, those in secrets.items():
        for name, value in those.items():
            box.write(f"/etc/slate/secrets/{service}/{name}", value)
    told = {
        "SLATE_DB_HOST": settings.db_host,
        "SLATE_DB_PORT": settings.db_port,
        "SLATE_DB_NAME": settings.db_name,
        "SLATE_DB_USER": settings.db_user,
        "SLATE_NATS_INBOX": settings.nats_inbox,
        "SLATE_STREAM": settings.stream,
        "SLATE_API_PORT": port,
        "SLATE_LOG_FORMAT": "json",
        "LD_LIBRARY_PATH": "/opt/python/lib",
        "PYTHONPATH": "/opt/slate",
    }
    box.write("/etc/slate/slate.env", "".join(f"{name}={value}\n" for name, value in told.items()))
    box.write("/etc/slate/ingest-rest.env", f"SLATE_WORKER_PARTITIONS=4,5-7\nSLATE_METRICS_PORT={free_port()}\n")
    box.write("/etc/slate/ingest-0-3.env", f"SLATE_METRICS_PORT={free_port()}\n")
    box.write("/etc/slate/rollups-0.env", f"SLATE_METRICS_PORT={free_port()}\n")
    names = ["--ingest", "0-3", "--ingest", "rest", "--rollups", "0"]
    box.done(str(ROOT / "deploy/systemd/install.sh"), "--root", "/", *names)
    # pip's part is left out: the environment of the tests, and its Python where units can see it.
    box.done("mkdir", "-p", "/opt/slate/.venv/bin", "/opt/python")
    box.done("mount", "--bind", sys.base_prefix, "/opt/python")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    box.done("ln", "-s", f"/opt/python/bin/{version}", "/opt/slate/.venv/bin/python")
    box.done("ln", "-s", f"{sys.prefix}/lib", "/opt/slate/.venv/lib")
    box.write("/opt/slate/.venv/pyvenv.cfg", "home = /opt/python/bin\n")
    box.done("chmod", "0644", "/opt/slate/.venv/pyvenv.cfg")
    box.done("install", "-m", "0755", str(ROOT / "deploy/container/slate"), "/opt/slate/.venv/bin/slate")
    box.done("systemctl", "daemon-reload")


def test_everything_starts_is_watched_and_ends(settings: Settings, postgres: PostgresServer, tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path / "box") as box:
        install(box, settings, port)
        units = [*WORKERS, "slate-api"]
        box.done("systemctl", "start", "slate-migrate", *units, timeout=300)
        for unit in units:
            assert box.show(unit, "ActiveState") == "active"
            environment = Path(f"/proc/{outer_pid(box, unit)}/environ").read_bytes().decode()
            assert JWT_SECRET not in environment
            assert settings.db_password is not None
            assert settings.db_password.get_secret_value() not in environment
            assert "SLATE_DB_PASSWORD_FILE=/run/credentials/" in environment
        eventually(lambda: "msg/s" in box.show("slate-ingest@0-3", "StatusText"), 20)
        eventually(lambda: "lag" in box.show("slate-rollups@0", "StatusText"), 20)
        assert box.show("slate-api", "StatusText").startswith("serves ")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as answer:
            assert json.loads(answer.read())["ok"] is True

        for number in range(40):
            publish(settings, f"spark.thing.s{number}")
        eventually(lambda: events(settings) == 40, 30)

        postgres.stop()
        try:
            publish(settings, "spark.thing.s1")
            eventually(lambda: "waits" in box.show("slate-ingest@0-3", "StatusText"), 40)
        finally:
            postgres.start()
        eventually(lambda: events(settings) == 41, 40)

        # One whose threads all stand still (SIGSTOP) tells nothing any more: systemd ends it and starts another.
        before = box.show("slate-ingest@0-3", "MainPID")
        box.done("kill", "-STOP", before)
        eventually(lambda: box.show("slate-ingest@0-3", "NRestarts") == "1", 60)
        eventually(lambda: box.show("slate-ingest@0-3", "ActiveState") == "active", 60)
        assert box.show("slate-ingest@0-3", "MainPID") != before
        assert {box.show(unit, "NRestarts") for unit in units[1:]} == {"0"}  # PostgreSQL's absence ended nobody

        box.done("systemctl", "start", "slate-maintain", timeout=120)
        box.done("systemctl", "stop", *units, timeout=200)
        said = box.said()
        assert "slate-ingest@0-3.service: Watchdog timeout" in said
        assert said.count("Watchdog timeout") == 1
        for unit in (*units, "slate-maintain"):
            assert f"{unit}.service: Deactivated successfully." in said, unit


def outer_pid(box: Box, unit: str) -> int:
    """The main process of a unit as this machine numbers it."""
    inside = box.show(unit, "MainPID")
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text, group = status.read_text(), (status.parent / "cgroup").read_text()
        except OSError:
            continue
        numbers = next(line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:"))
        if len(numbers) == 2 and numbers[1] == inside and f"/{unit}" in group:
            return int(numbers[0])
    raise AssertionError(f"no process {inside} of {unit}")
