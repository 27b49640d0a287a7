"""Commands that change things are in the log, which nobody can change; one that was killed is seen there."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from connectors.admin_log import disguised, logged
from connectors.errors import SchemaError, SlateError
from connectors.schema import migrate
from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import environment_of
from tests.support.run import run
from tests.support.stack import connect
from tests.support.waiting import eventually

Slate = Callable[..., Result]
COLUMNS = "phase, command, arguments, os_user, host, db_role, outcome, error, counts"


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


@pytest.fixture
def slate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Slate:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def rows(database: psycopg.Connection) -> list[dict[str, Any]]:
    found = database.execute(f"SELECT {COLUMNS} FROM slate.admin_log ORDER BY id".encode()).fetchall()
    return [dict(zip(COLUMNS.split(", "), row, strict=True)) for row in found]


def test_a_command_has_a_beginning_and_an_end(settings: Settings, database: psycopg.Connection) -> None:
    with logged(settings, "try", {"what": "x", "not": None}) as work:
        assert [one["phase"] for one in rows(database)] == ["begun"]
        work.counts["rows"] = 3
    begun, ended = rows(database)
    assert (begun["arguments"], begun["outcome"], begun["counts"]) == ({"what": "x"}, None, None)
    assert (ended["phase"], ended["outcome"], ended["counts"]) == ("ended", "done", {"rows": 3})
    assert begun["os_user"]
    assert begun["host"]
    assert begun["db_role"] == settings.db_user


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("secret"), "failed"), (KeyboardInterrupt(), "interrupted")], ids=str
)
def test_how_it_ended_is_told_without_what_the_error_says(
    settings: Settings, database: psycopg.Connection, error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)), logged(settings, "try"):
        raise error
    ended = rows(database)[-1]
    assert (ended["outcome"], ended["error"]) == (outcome, type(error).__name__)
    assert "secret" not in str(ended)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE slate.admin_log SET command = 'x'", "DELETE FROM slate.admin_log", "TRUNCATE slate.admin_log"],
)
def test_not_even_the_owner_changes_a_row_or_says_when_it_was(
    settings: Settings, database: psycopg.Connection, statement: str
) -> None:
    with logged(settings, "try"):
        pass
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        database.execute(statement.encode())
    row = database.execute(
        "INSERT INTO slate.admin_log (run, phase, command, arguments, os_user, host, at, db_role)"
        " VALUES (gen_random_uuid(), 'begun', 'c', '{}', 'u', 'h', '2020-01-01', 'somebody') RETURNING at, db_role"
    ).fetchone()
    assert row is not None
    assert row[0] > datetime.fromisoformat("2025-01-01T00:00+00:00")
    assert row[1] == settings.db_user


def test_a_command_that_cannot_be_logged_is_not_run(empty_settings: Settings) -> None:
    with pytest.raises(SchemaError, match="slate migrate"), logged(empty_settings, "try"):
        raise AssertionError


def test_a_role_that_may_not_add_to_it_runs_nothing(settings: Settings, database: psycopg.Connection) -> None:
    database.execute("CREATE ROLE log_reader LOGIN PASSWORD 'x'")
    try:
        database.execute("GRANT USAGE ON SCHEMA slate TO log_reader; GRANT SELECT ON slate.admin_log TO log_reader")
        reader = Settings.load(local=False, **settings.model_dump() | {"db_user": "log_reader", "db_password": "x"})
        with pytest.raises(SlateError, match="permission"), logged(reader, "try"):
            raise AssertionError
        assert rows(database) == []
    finally:
        database.execute("DROP OWNED BY log_reader; DROP ROLE log_reader")


def test_the_migration_that_makes_it_is_its_first_entry(empty_settings: Settings) -> None:
    with logged(empty_settings, "migrate", makes_it=True):
        migrate(empty_settings)
    with connect(empty_settings) as database:
        assert [(one["phase"], one["outcome"]) for one in rows(database)] == [("begun", None), ("ended", "done")]


def test_each_command_that_changes_something_is_there(
    settings: Settings, slate: Slate, database: psycopg.Connection
) -> None:
    user = str(uuid4())
    for arguments in (
        ["migrate"],
        ["maintain"],
        ["audit", "--repair"],
        ["dead-letters", "replay", "--all", "--subject", "spark.usage.sess_private"],
        ["alerts", "silence", f"user={user}", "session=sess_private", "severity=warning"],
        ["alerts", "unsilence", "1"],
        ["alerts", "ack", "none"],
        ["forget", "--user", user, "--yes"],
        ["export", "--user", user, "--to", "out.zip"],
    ):
        result = slate(*arguments)
        assert result.exit_code == (1 if "ack" in arguments else 0), (arguments, result.output, result.exception)
    commands = ["migrate", "maintain", "audit --repair", "dead-letters replay", "alerts silence", "alerts unsilence"]
    commands += ["alerts ack", "forget", "export"]
    found = rows(database)
    assert [one["command"] for one in found if one["phase"] == "begun"] == commands
    assert [one["outcome"] for one in found if one["phase"] == "ended"] == ["done"] * 6 + ["failed"] + ["done"] * 2
    text = json.dumps(found)
    assert user not in text
    assert "sess_private" not in text
    assert text.count(disguised(user)) == 6
    assert "severity" in text


def test_commands_that_only_look_are_not(settings: Settings, slate: Slate, database: psycopg.Connection) -> None:
    for arguments in (
        ["audit"],
        ["alerts", "list"],
        ["dead-letters", "list"],
        ["dead-letters", "replay", "--dry-run"],
        ["forget", "--user", str(uuid4()), "--dry-run"],
        ["export", "--user", str(uuid4()), "--dry-run"],
        ["log"],
    ):
        assert slate(*arguments).exit_code == 0, arguments
    assert rows(database) == []


def test_the_log_shows_a_command_that_was_killed(settings: Settings, database: psycopg.Connection) -> None:
    environment = {"PATH": "/usr/bin:/bin", **environment_of(settings)}
    command = [sys.executable, "-m", "deploy.cli"]
    with connect(settings) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(hashtext('slate.migrate'))")
        process = subprocess.Popen([*command, "migrate"], env=environment, stdout=subprocess.DEVNULL)
        eventually(lambda: rows(database), 20, what="it has begun")
        process.kill()
        process.wait()
    shown = run([*command, "log", "--since", "1h", "--limit", "5"], environment=environment)
    assert shown.returncode == 0, shown.stderr
    assert "migrate" in shown.stdout
    assert "no end" in shown.stdout
    later = run([*command, "log", "--since", "2100-01-01"], environment=environment)
    assert "No commands." in later.stdout


def test_what_others_wrote_cannot_steer_the_terminal(settings: Settings, database: psycopg.Connection) -> None:
    database.execute(
        "INSERT INTO slate.admin_log (run, phase, command, arguments, os_user, host)"
        " VALUES (gen_random_uuid(), 'begun', 'c', '{}', %s, 'h')",
        ("\x1b[2Jx",),
    )
    environment = {"PATH": "/usr/bin:/bin", **environment_of(settings)}
    shown = run([sys.executable, "-m", "deploy.cli", "log"], environment=environment)
    assert "\x1b[2J" not in shown.stdout
