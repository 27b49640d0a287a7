"""Every statement of Grafana, as Grafana sends it, on simulated sessions, in the role that people are to give it."""

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from connectors.settings import Settings
from connectors.sql import read
from tests.support.grafana import Shown, Target, boards, expand, targets
from tests.support.simulated import simulated
from tests.support.stack import Stack, connect

TARGETS = targets("slate-postgres")
NASTY = ["'", "x') OR true; DROP TABLE spark_events; --", 'a"b\\', "${model}", "$model", "ünï"]


@dataclass
class Grafana:
    """Grafana as far as PostgreSQL sees it."""

    connection: psycopg.Connection[tuple[Any, ...]]
    owner: psycopg.Connection[tuple[Any, ...]]
    shown: Shown
    options: dict[str, list[str]]
    """All values of each variable."""

    def ask(self, target: Target, chosen: dict[str, list[str]] | None = None) -> psycopg.Cursor[tuple[Any, ...]]:
        """Send a target, all values chosen unless others are."""
        statement = expand(target.json["rawSql"], self.shown, self.options if chosen is None else chosen)
        return self.connection.execute(statement.encode())


@pytest.fixture(scope="module")
def grafana(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    directory = tmp_path_factory.mktemp("workers")
    with stack.provide() as settings, simulated(settings, directory), connect(settings) as owner:
        owner.execute(
            "INSERT INTO slate.alert_silences (matchers, until, author, comment) "
            "VALUES ('{\"function\": \"known\"}', now() + '1 hour', 'test', 'it is known')"
        )
        owner.execute(
            "INSERT INTO slate.gaps (stream, partition, first_seq, last_seq, reason) "
            "VALUES ('OLD', 0, 5, 7, 'retention')"
        )
        with role(settings, owner) as connection:
            now = datetime.now(UTC)
            found = Grafana(connection, owner, Shown(now - timedelta(hours=1), now + timedelta(seconds=5)), {})
            for variable in (one for board in boards() for one in board["templating"].get("list", ())):
                found.options[variable["name"]] = options(found, variable)
            yield found


@contextmanager
def role(settings: Settings, owner: psycopg.Connection[tuple[Any, ...]]) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the role that `role.sql` makes; made twice, as after an upgrade."""
    for _ in range(2):
        owner.execute(read("grafana/role.sql").encode())
    password = secrets.token_hex(8)
    owner.execute(sql.SQL("ALTER ROLE grafana PASSWORD {}").format(password))
    try:
        with connect(settings, user="grafana", password=password) as connection:
            yield connection
    finally:
        owner.execute("DROP OWNED BY grafana")
        owner.execute("DROP ROLE grafana")


def options(grafana: Grafana, variable: dict[str, Any]) -> list[str]:
    """What a variable offers."""
    if variable["type"] == "custom":
        return str(variable["query"]).split(",")
    return [str(row[0]) for row in grafana.connection.execute(expand(variable["query"], grafana.shown, {}).encode())]


def test_variables_offer_what_is_there(grafana: Grafana) -> None:
    assert set(grafana.options) == {"model", "function", "engine"}
    assert len(grafana.options["model"]) > 1
    assert set(grafana.options["function"]) == {"generate_unity_script", "apply_patch", "manage_asset"}
    found = grafana.owner.execute("SELECT DISTINCT engine FROM spark_previews").fetchall()
    assert {str(row[0]) for row in found} <= set(grafana.options["engine"])


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_a_statement_gives_rows_that_its_panel_can_show(grafana: Grafana, target: Target) -> None:
    answer = grafana.ask(target)
    rows = answer.fetchall()
    assert rows
    columns = [one.name for one in answer.description or ()]
    assert len(set(columns)) == len(columns)
    if target.json["format"] == "time_series":
        check_series(columns, rows)
    shown = target.panel.get("fieldConfig", {"overrides": [], "defaults": {}})
    assert {one["matcher"]["options"] for one in shown["overrides"]} <= set(columns)
    labels = re.findall(r"labels\.(\w+)", shown["defaults"].get("displayName", ""))
    assert set(labels) <= set(columns)


def check_series(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows are a time series to Grafana: a time in whose order they are, numbers, and texts that are labels."""
    where = columns.index("time")
    times = [row[where] for row in rows]
    assert times == sorted(times)
    assert all(isinstance(one, datetime | date | Decimal | float) for one in times)
    kinds = {
        name: {type(row[number]) for row in rows} - {type(None)}
        for number, name in enumerate(columns)
        if number != where
    }
    assert all(kind <= {int, float, Decimal} or kind == {str} for kind in kinds.values()), kinds
    assert sum(kind != {str} for kind in kinds.values()) == 1, "one value, whose name the labels make"
    assert "metric" not in columns, "Grafana takes it for the name of the series"
    assert len({(row[where], *(one for one in row if isinstance(one, str))) for row in rows}) == len(rows)


def test_figures_of_panels_are_those_of_the_tables(grafana: Grafana) -> None:
    def first(name: str, column: int = 0) -> Any:
        (target,) = [one for one in TARGETS if one.name == name]
        return sum(row[column] for row in grafana.ask(target))

    def owner(statement: str) -> Any:
        row = grafana.owner.execute(statement.encode()).fetchone()
        return row[0] if row else None

    assert first("slate-product: Tokens and cost A") == owner(
        "SELECT sum(tokens_prompt + tokens_completion) FROM spark_usage"
    )
    assert first("slate-product: Tokens by model A", 2) == first("slate-product: Tokens and cost A")
    assert first("slate-product: Tokens and cost A", 1) == owner("SELECT sum(cost_estimate) FROM spark_usage")
    assert first("slate-product: Cost by day and model A", 2) == owner("SELECT sum(cost_estimate) FROM spark_usage")
    calls = owner("SELECT count(*) FROM spark_function_calls")
    assert first("slate-product: Calls A") == first("slate-product: Calls by function A", 2) == calls
    assert first("slate-product: Functions A", 1) == calls
    assert first("slate-product: Scripts per hour A", 1) == owner("SELECT count(*) FROM spark_generated_scripts")
    assert first("slate-product: Builds A", 2) == owner("SELECT count(*) FROM spark_build_jobs")
    assert first("slate-operations: Ledger A", 2) == owner("SELECT sum(read) FROM slate.ledger")
    assert first("slate-operations: Unaccounted messages A") == 0
    assert first("slate-operations: Lost before they were read A", 5) == 3
    firing = owner("SELECT count(*) FROM slate.alert_states WHERE status = 'firing'")
    assert sum(first("slate-alerts: Firing A", severity) for severity in range(3)) == firing > 0


def test_percentiles_of_panels_are_those_of_the_calls(grafana: Grafana) -> None:
    (target,) = [one for one in TARGETS if one.name == "slate-product: Functions A"]
    exact = grafana.owner.execute(
        "SELECT name, percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM spark_function_calls "
        "WHERE duration_ms IS NOT NULL GROUP BY name"
    ).fetchall()
    found = {row[0]: row[4] for row in grafana.ask(target)}
    for name, p95 in exact:
        assert found[name] == pytest.approx(p95, rel=0.03)


@pytest.mark.parametrize(("interval", "seconds"), [("5m", 300), ("10m", 600), ("1h", 3600)])
def test_longer_times_take_wider_windows(grafana: Grafana, interval: str, seconds: int) -> None:
    shown = Shown(grafana.shown.since - timedelta(days=29), grafana.shown.until, interval)
    for name in ("Duration by function, p95 A", "Calls by function A", "Error rate by function A", "Tokens by model A"):
        (target,) = [one for one in TARGETS if one.name == f"slate-product: {name}"]
        statement = expand(target.json["rawSql"], shown, grafana.options)
        rows = grafana.connection.execute(statement.encode()).fetchall()
        assert rows, name
        assert all(row[0] % seconds == 0 for row in rows)
        assert len(rows) <= (3700 / seconds + 2) * max(len(one) for one in grafana.options.values())


@pytest.mark.parametrize("values", [[], ["nothing has this name"], NASTY], ids=["none", "other", "nasty"])
def test_no_choice_of_variables_breaks_a_statement(grafana: Grafana, values: list[str]) -> None:
    asked = [one for one in TARGETS if ":sqlstring}" in one.json["rawSql"]]
    assert len(asked) > 10
    for target in asked:
        rows = grafana.ask(target, dict.fromkeys(grafana.options, values)).fetchall()
        assert all(not any(row) for row in rows), target.name
    assert grafana.owner.execute("SELECT count(*) > 0 FROM spark_events").fetchone() == (True,)


def test_one_value_shows_nothing_of_others(grafana: Grafana) -> None:
    (target,) = [one for one in TARGETS if one.name == "slate-product: Functions A"]
    rows = grafana.ask(target, {"function": ["apply_patch"]}).fetchall()
    assert [row[0] for row in rows] == ["apply_patch"]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT payload FROM spark_events",
        "SELECT script_content FROM spark_generated_scripts",
        "SELECT prompt FROM spark_generated_scripts",
        "SELECT args FROM spark_function_calls",
        "SELECT error FROM spark_function_calls",
        "SELECT data FROM spark_telemetry",
        "SELECT meta FROM spark_previews",
        "SELECT user_id FROM spark_sessions",
        "SELECT user_id FROM spark_usage",
        "SELECT payload FROM slate.dead_letters",
        "SELECT headers FROM slate.dead_letters",
        "SELECT * FROM slate.dead_letters",
    ],
)
def test_the_role_cannot_read_what_users_wrote(grafana: Grafana, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        grafana.connection.execute(statement.encode())


def test_the_role_cannot_write_even_where_it_says_that_it_wants_to(grafana: Grafana) -> None:
    for statement in ("DELETE FROM slate.windows", "UPDATE slate.alerts SET reason = ''", "CREATE TABLE t (n int)"):
        with pytest.raises((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
            grafana.connection.execute(statement.encode())
        with grafana.connection.transaction(force_rollback=True):
            grafana.connection.execute("SET TRANSACTION READ WRITE")
            with pytest.raises(errors.InsufficientPrivilege), grafana.connection.transaction():
                grafana.connection.execute(statement.encode())


def test_the_role_is_stopped_after_five_seconds(grafana: Grafana) -> None:
    found = [
        (grafana.connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone() or [""])[0]
        for name in ("statement_timeout", "lock_timeout", "default_transaction_read_only", "timezone")
    ]
    assert found == ["5s", "2s", "on", "UTC"]


def test_alert_rules_say_nothing_while_all_is_well_and_something_when_it_is_not(grafana: Grafana) -> None:
    rules = {one.name.removeprefix("rule "): one for one in TARGETS if one.name.startswith("rule ")}

    def figures() -> dict[str, int]:
        return {name: (grafana.ask(rule).fetchone() or (None, -1))[1] for name, rule in rules.items()}

    wrong = """
        UPDATE slate.alert_states SET starts_at = now() - interval '16 minutes', acknowledged_at = NULL;
        INSERT INTO slate.dead_letters
            (received_at, stage, code, reason, subject, stream, partition, seq, stored_at, payload, headers)
        SELECT now() - interval '25 hours', stage, code, '', 's', 's', 0, 1, now(), '', ''
        FROM (VALUES ('store', '22003', 1), ('decode', 'json', 2)) AS letters (stage, code, n);
        INSERT INTO spark_build_jobs (id, session_id, status, created_at, updated_at, status_at)
        SELECT id, 's', status, now() - interval '2 hours', now() - heard * interval '1 minute', now()
        FROM (VALUES ('a', 'building', 61), ('b', 'building', 59), ('c', 'completed', 99)) AS jobs (id, status, heard)
    """
    months = "SELECT slate.ensure_month((date_trunc('month', now()) + n * interval '1 month')::date) FROM {}"
    grafana.owner.execute(months.format("generate_series(0, 2) AS n").encode())
    grafana.owner.execute("UPDATE slate.alert_states SET acknowledged_at = now()")
    assert set(figures().values()) == {0}
    grafana.owner.execute(wrong.encode())
    month = grafana.owner.execute("SELECT to_char(now() + interval '1 month', 'YYYY_MM')").fetchone()
    grafana.owner.execute(f"DROP TABLE spark_events_{(month or [''])[0]}".encode())
    found = figures()
    assert found.pop("SlateCriticalUnacknowledged") >= 1
    assert set(found.values()) == {1}
