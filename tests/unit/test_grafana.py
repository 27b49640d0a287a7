"""Dashboards and alert rules are as their code says, as Grafana's models say, and complete."""

import enum
import json
import re
import types
import typing
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from deploy.grafana import __main__ as command  # first, for it knows which warning of the SDK to pass over

# isort: split
import pytest
import typer
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard, expr
from typer.testing import CliRunner

from connectors.sql import read
from tests.support.grafana import BOARDS, GRAFANA, Shown, boards, expand, rules, targets

SQL: Final = Path(__file__).parents[2] / "sql" / "grafana"
SHOWN: Final = Shown(datetime(2026, 3, 1, 10, tzinfo=UTC), datetime(2026, 3, 1, 11, 0, 0, 5000, tzinfo=UTC), "5m")
PERSONAL: Final = re.compile(r"payload|prompt\b|script_content|\bargs\b|\boutput\b|\bdata\b|user_id|\bmeta\b")


def run(*arguments: str | Path) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, done.output


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in board["panels"] if one["type"] != "row"]


def test_the_files_that_are_kept_are_those_that_the_code_writes() -> None:
    assert command.outdated() == [], "run python -m deploy.grafana"


def test_check_names_what_is_not_up_to_date_and_writes_nothing(tmp_path: Path) -> None:
    assert run("--directory", tmp_path)[0] == 0
    assert run("--directory", tmp_path, "--check") == (0, "")
    changed, stray = tmp_path / "dashboards" / "alerts.json", tmp_path / "dashboards" / "old.json"
    changed.write_text("{}")
    stray.write_text("{}")
    code, output = run("--directory", tmp_path, "--check")
    assert code == 1
    assert output.splitlines() == ["dashboards/alerts.json: not up to date", "dashboards/old.json: not up to date"]
    assert changed.read_text() == "{}"
    assert run("--directory", tmp_path)[0] == 0
    assert not stray.exists()
    assert run("--directory", tmp_path, "--check") == (0, "")


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: one.stem)
def test_a_dashboard_survives_grafanas_models_and_has_their_types(board: Path) -> None:
    register_default_plugins()
    kept = json.loads(board.read_text())
    parsed = dashboard.Dashboard.from_json(kept)
    assert json.loads(json.dumps(parsed, cls=JSONEncoder)) == kept
    assert kept["schemaVersion"] >= 42
    assert list(wrong(parsed, dashboard.Dashboard, board.stem)) == []


def test_expressions_of_rules_survive_grafanas_models() -> None:
    for rule in rules():
        _, reduce, threshold = (one["model"] for one in rule["data"])
        for kept, kind in ((reduce, expr.TypeReduce), (threshold, expr.TypeThreshold)):
            parsed = kind.from_json(kept)
            assert json.loads(json.dumps(parsed, cls=JSONEncoder)) == kept
            assert list(wrong(parsed, kind, rule["title"])) == []


def wrong(value: Any, kind: Any, path: str) -> typing.Iterator[str]:
    """Where a value is not of the kind that a model declares; what it declares as object may be anything."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (object, Any, Dataquery):
        if isinstance(value, UnknownDataquery) or not hasattr(value, "to_json"):
            return
        kind = type(value)
        origin, arguments = None, ()
    if origin in (typing.Union, types.UnionType):
        if not any(not list(wrong(value, one, path)) for one in arguments):
            yield f"{path}: {value!r} is none of {kind}"
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{path}: {value!r} is not {kind}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for number, one in enumerate(value):
            yield from wrong(one, arguments[0], f"{path}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
            return
        for key, one in value.items():
            yield from wrong(one, arguments[1], f"{path}.{key}")
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        if value not in [one.value for one in kind]:
            yield f"{path}: {value!r} is no {kind.__name__}"
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{path}: {value!r} is no number"
    elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        yield f"{path}: {value!r} is no {kind.__name__}"
    elif hasattr(kind, "to_json"):
        for name, of in typing.get_type_hints(type(value)).items():
            yield from wrong(getattr(value, name), of, f"{path}.{name}")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("panels", 1, "options", "colorMode"), "colourful"),
        (("panels", 1, "gridPos", "w"), "wide"),
        (("panels", 1, "targets", 0, "expr"), 1),
        (("panels", 8, "fieldConfig", "defaults", "custom", "drawStyle"), "circles"),
        (("panels", 1, "fieldConfig", "defaults", "thresholds", "steps", 0, "color"), None),
        (("graphTooltip",), 7),
    ],
)
def test_what_grafanas_models_do_not_allow_is_found(place: tuple[str | int, ...], value: object) -> None:
    register_default_plugins()
    kept = at = json.loads((GRAFANA / "dashboards" / "operations.json").read_text())
    for step in place[:-1]:
        at = at[step]
    assert place[-1] in at
    at[place[-1]] = value
    assert len(list(wrong(dashboard.Dashboard.from_json(kept), dashboard.Dashboard, ""))) >= 1


def test_identities_are_unique() -> None:
    uids = [one["uid"] for one in boards()] + [one["uid"] for one in rules()]
    assert [one for one, count in Counter(uids).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z-]{8,40}", uid) for uid in uids)
    for board in boards():
        numbers = [one["id"] for one in board["panels"]]
        assert numbers == list(range(1, len(numbers) + 1))
        for panel in panels(board):
            names = [one["refId"] for one in panel["targets"]]
            assert len(set(names)) == len(names)


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    for board in boards():
        places = Counter(
            (x, y)
            for panel in board["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        )
        assert max(places.values()) == 1
        assert {x for x, _ in places} == set(range(24))


def test_every_panel_says_what_it_shows_in_which_unit_from_where_it_is_bad_and_what_no_data_means() -> None:
    for board in boards():
        assert board["timezone"] == "utc"
        assert not board["editable"]
        assert [one["name"] for one in board["annotations"]["list"]] == ["Alerts that begin", "Alerts that end"]
        for panel in panels(board):
            shown = panel["fieldConfig"]["defaults"]
            assert panel["title"], panel
            assert panel["description"].endswith((".", "`.")), panel["title"]
            assert shown["unit"], panel["title"]
            assert shown["noValue"], panel["title"]
            assert shown["thresholds"]["steps"][0]["value"] is None, panel["title"]
            assert {one["datasource"]["uid"] for one in panel["targets"]} == {panel["datasource"]["uid"]}


def test_data_sources_are_those_that_are_provisioned_and_no_secret_is_written_down() -> None:
    text = (GRAFANA / "provisioning" / "datasources" / "slate.yaml").read_text()
    sources = {one["uid"]: one for one in yaml.safe_load(text)["datasources"]}
    asked = {(one["datasource"]["uid"], one["datasource"]["type"]) for board in boards() for one in panels(board)}
    assert asked == {(uid, one["type"]) for uid, one in sources.items()}
    postgres = sources["slate-postgres"]
    assert postgres["user"] == "grafana"
    assert postgres["jsonData"]["sslmode"] == "$PGSSLMODE"
    assert postgres["secureJsonData"] == {"password": "$SLATE_GRAFANA_PASSWORD"}
    head = text.partition("apiVersion")[0]
    assert all(name in head for name in re.findall(r"\$(\w+)", text))


def test_grafana_never_asks_for_what_users_wrote() -> None:
    for target in targets("slate-postgres"):
        statement = re.sub(r"tokens_prompt|--.*", "", target.json["rawSql"])
        assert not PERSONAL.search(statement), target.name
        assert "*" not in statement.replace("count(*)", ""), target.name


def test_every_statement_is_used_and_variables_are_quoted_by_grafana() -> None:
    asked = {target.json["rawSql"] for target in targets("slate-postgres")}
    there = {str(one.relative_to(SQL)) for one in SQL.rglob("*.sql")} - {"role.sql"}
    assert {one for one in there if read(f"grafana/{one}").rstrip("\n") not in asked} == set()
    for statement in asked:
        assert statement.startswith("-- ")
        assert len(re.findall(r"\$\{", statement)) == len(re.findall(r"any\(ARRAY\[\$\{\w+:sqlstring\}\]", statement))


def test_series_are_sorted_by_time() -> None:
    for target in targets("slate-postgres"):
        if target.json["format"] == "time_series" and not target.name.startswith("rule "):
            assert re.search(r"\nORDER BY (1|time|day)\b", target.json["rawSql"]), target.name


def test_rules_are_what_provisioning_takes() -> None:
    text = (GRAFANA / "provisioning" / "alerting" / "rules.yaml").read_text()
    assert "$" not in text, "Grafana would take it for a variable of the environment"
    contacts = yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "contact-points.yaml").read_text())
    receivers = {one["name"] for one in contacts["contactPoints"]}
    for rule in rules():
        assert rule["condition"] in {one["refId"] for one in rule["data"]}
        assert rule["data"][0]["model"]["format"] == "time_series"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook"].startswith("docs/runbooks.md#")
        assert rule["notification_settings"]["receiver"] in receivers


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("$__timeFilter(ts)", "ts BETWEEN '2026-03-01T10:00:00Z' AND '2026-03-01T11:00:00.005000Z'"),
        ("$__timeGroup(ts, $__interval)", "floor(extract(epoch from ts)/300)*300"),
        ("$__timeGroupAlias(w.ts,'1h', 0)", 'floor(extract(epoch from w.ts)/3600)*3600 AS "time"'),
        ("$__unixEpochFilter(at)", "at >= 1772359200 AND at <= 1772362800"),
        ("$__interval_ms >= $__unixEpochFrom()", "300000 >= 1772359200"),
        ("$__timeFrom()::date", "'2026-03-01T10:00:00Z'::date"),
        ("ARRAY[${f:sqlstring}]::text[]", "ARRAY['a','it''s']::text[]"),
        ("ARRAY[${none:sqlstring}]::text[]", "ARRAY[]::text[]"),
    ],
)
def test_macros_are_filled_in_as_grafana_does(written: str, sent: str) -> None:
    assert expand(written, SHOWN, {"f": ["a", "it's"], "none": []}) == sent


def test_a_macro_that_grafana_does_not_know_is_found() -> None:
    with pytest.raises(ValueError, match="unknown macro __timeGroups"):
        expand("$__timeGroups(ts)", SHOWN, {})
