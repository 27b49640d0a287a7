"""`slate alerts`: what is wrong in a file, what would have fired, what fires, and how to keep it quiet."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from connectors.alerts import AlertStore, StateRow, Transition
from connectors.errors import ConfigurationError, SlateError
from connectors.link import open_connection
from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import environment_of
from tests.support.stack import connect

Slate = Callable[..., Result]
RULES = """
[[rules]]
name = "errors"
signal = "call_error_rate"
group_by = ["function"]
window = "1m"
above = {above}
min_samples = {least}
[[rules]]
name = "lag"
signal = "ingest_lag"
above = 30
"""
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def slate(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slate:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLATE_ALERT_RULES", str(rules_file(tmp_path, "rules.toml")))
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["alerts", *arguments])

    return run


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def rules_file(directory: Path, name: str, above: float = 0.5, least: int = 5) -> Path:
    (directory / name).write_text(RULES.format(above=above, least=least))
    return directory / name


def call(database: psycopg.Connection, seconds: int, function: str, status: str) -> None:
    database.execute(
        "INSERT INTO spark_function_calls (session_id, call_id, name, ts, status, updated_at)"
        " VALUES ('s', gen_random_uuid(), %s, %s, %s, now())",
        (function, NOW + timedelta(seconds=seconds), status),
    )


@pytest.fixture
def history(database: psycopg.Connection) -> None:
    for number in range(40):  # f fails from 12:00:20 to 12:00:30; g has but two calls, and both fail
        call(database, number, "f", "failed" if 20 <= number < 30 else "success")
    call(database, 5, "g", "failed")
    call(database, 6, "g", "failed")


SPAN = ("--from", "2026-03-01T11:59:00", "--to", "2026-03-01T12:10:00")


@pytest.mark.usefixtures("history")
def test_a_backtest_says_what_would_have_fired_and_why_the_rest_would_not(slate: Slate, tmp_path: Path) -> None:
    rules = rules_file(tmp_path, "sharp.toml", above=0.2)
    done = slate("backtest", *SPAN, "--rules", str(rules), "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    (alert,) = found["alerts"]
    assert alert["labels"] == {"alertname": "errors", "severity": "warning", "function": "f"}
    assert alert["starts"] == "2026-03-01T12:00:26Z"
    assert alert["reason"] == "23.1 % is above 20.0 % (26 samples in 1m)"
    assert alert["seconds"] == 62
    (held,) = found["held"]
    assert (held["rule"], held["why"], held["groups"], held["worst"]) == ("errors", "too few samples", 1, 1.0)
    assert found["absent"] == ["lag"]
    shown = slate("backtest", *SPAN, "--rules", str(rules)).stdout
    assert "23.1 % is above 20.0 %" in shown
    assert "too few samples" in shown
    assert "no table holds their figures: lag" in shown


@pytest.mark.usefixtures("history")
def test_two_files_are_compared(slate: Slate, tmp_path: Path) -> None:
    strict = rules_file(tmp_path, "strict.toml", above=0.2, least=1)
    loose = rules_file(tmp_path, "loose.toml", above=0.2)
    shown = slate("backtest", *SPAN, "--rules", str(loose), "--against", str(strict)).stdout
    assert "function=g" in shown
    assert "function=f" not in shown
    assert "1 in both" in shown


def test_a_backtest_of_nothing_says_so(slate: Slate) -> None:
    assert "Nothing would have fired." in slate("backtest", "--from", "1h").stdout
    assert slate("backtest", "--from", "1h", "--to", "2h").exit_code == 2
    assert slate("backtest", "--from", "yesterday").exit_code == 2


def test_a_file_that_is_not_right_is_explained(slate: Slate, tmp_path: Path) -> None:
    assert slate("check").exit_code == 0
    (tmp_path / "wrong.toml").write_text("[[rules]]\nname = 'x'\nsignal = 'y'\nabove = 1\n")
    done = slate("check", "--rules", str(tmp_path / "wrong.toml"))
    assert done.exit_code == 1
    assert isinstance(done.exception, ConfigurationError)
    assert "wrong.toml: line 3: rules[0] (x), signal: 'y' is none of" in str(done.exception)


def test_what_fires_is_listed_taken_on_and_silenced(
    slate: Slate, settings: Settings, database: psycopg.Connection
) -> None:
    labels = {"alertname": "errors", "severity": "warning", "function": "f\x1b[31m"}
    store = AlertStore(settings, "test")
    with open_connection(settings, "test") as connection, connection.transaction():
        at = 1_772_000_000_000_000
        decided = Transition("errors", "abc", "firing", labels, {}, 0.5, "50 % is above", at, None)
        store.decide(connection, [decided], lambda labels: ["webhook"])
        store.keep_states(
            connection,
            [StateRow("errors", "abc", ["f"], labels, "firing", at, None, None, at, 0.5, 1, "50 % is above")],
        )
    shown = slate("list").stdout
    assert "50 % is above" in shown
    assert "webhook: pending" in shown
    assert "\x1b[31m" not in shown, "what a stranger published does not steer the terminal"

    assert "Taken on" in slate("ack", "abc").stdout
    assert isinstance(slate("ack", "abcd").exception, SlateError)
    done = slate("silence", "alertname=errors", "severity=warning", "--for", "2h", "--comment", "known")
    assert done.exit_code == 0
    shown = slate("list").stdout
    assert "silenced" in shown
    assert "taken on by" in shown
    assert "silence 1: severity=warning" in shown
    assert "known" in shown
    assert "is over" in slate("unsilence", "1").stdout
    assert isinstance(slate("unsilence", "1").exception, SlateError)
    assert slate("silence", "errors").exit_code == 2
    assert slate("silence", "a=b", "--for", "soon").exit_code == 2


def test_with_nothing_to_tell_it_says_so(slate: Slate) -> None:
    assert "Nothing fires." in slate("list").stdout
