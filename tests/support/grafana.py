"""What Grafana does with our dashboards: it fills in variables and macros, and asks the data sources."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

GRAFANA: Final = Path(__file__).parents[2] / "deploy" / "grafana"
BOARDS: Final = sorted((GRAFANA / "dashboards").glob("*.json"))
_MACRO: Final = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
_VARIABLE: Final = re.compile(r"\$\{(\w+):sqlstring\}")
_UNITS_S: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Shown:
    """The time that a dashboard shows, and how far its points are apart."""

    since: datetime
    until: datetime
    interval: str = "1m"


@dataclass(frozen=True)
class Target:
    """One question of a dashboard or rule to a data source."""

    name: str
    json: dict[str, Any]
    panel: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The uid of the data source."""
        return str(self.json["datasource"]["uid"])


def boards() -> list[dict[str, Any]]:
    """The dashboards as they are kept."""
    return [json.loads(one.read_text()) for one in BOARDS]


def rules() -> list[dict[str, Any]]:
    """The alert rules as they are kept."""
    found = yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "rules.yaml").read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def targets(source: str) -> list[Target]:
    """All that dashboards and rules ask one data source."""
    return [one for one in _targets() if one.source == source]


def _targets() -> Iterator[Target]:
    for board in boards():
        uid = board["uid"]
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Target(f"{uid}: {panel['title']} {target['refId']}", target, panel)
        for annotation in board["annotations"]["list"]:
            yield Target(f"{uid}: annotation {annotation['name']}", annotation["target"])
        for variable in board["templating"].get("list", ()):
            if variable["type"] == "query":
                asked = {"datasource": variable["datasource"], "rawSql": variable["query"], "format": "table"}
                yield Target(f"{uid}: variable {variable['name']}", asked)
    for rule in rules():
        yield Target(f"rule {rule['title']}", rule["data"][0]["model"])


def expand(statement: str, shown: Shown, chosen: Mapping[str, Sequence[str]]) -> str:
    """A statement as Grafana sends it: variables as `sqlstring` writes them, intervals, then the plugin's macros.

    Raises:
        ValueError: Grafana knows no such macro.
    """
    text = _VARIABLE.sub(lambda found: _sqlstring(chosen[found[1]]), statement)
    text = text.replace("$__interval_ms", f"{seconds_of(shown.interval) * 1000:g}").replace(
        "$__interval", shown.interval
    )
    text = text.replace("$__unixEpochFrom()", _epoch(shown.since)).replace("$__unixEpochTo()", _epoch(shown.until))
    return _MACRO.sub(lambda found: _macro(found[1], [one.strip() for one in found[2].split(",")], shown), text)


def seconds_of(interval: str) -> float:
    """Seconds of an interval such as `'5m'`."""
    found = re.fullmatch(r"'?(\d+)(ms|[smhdw])'?", interval)
    if found is None:
        raise ValueError(f"not an interval: {interval}")
    return int(found[1]) * _UNITS_S[found[2]]


def _macro(name: str, arguments: list[str], shown: Shown) -> str:
    column = arguments[0]
    since, until = _literal(shown.since), _literal(shown.until)
    match name:
        case "__time":
            return f'{column} AS "time"'
        case "__timeFilter":
            return f"{column} BETWEEN {since} AND {until}"
        case "__timeFrom":
            return since
        case "__timeTo":
            return until
        case "__timeGroup":
            step = f"{seconds_of(arguments[1]):g}"
            return f"floor(extract(epoch from {column})/{step})*{step}"
        case "__timeGroupAlias":
            return _macro("__timeGroup", arguments, shown) + ' AS "time"'
        case "__unixEpochFilter":
            return f"{column} >= {_epoch(shown.since)} AND {column} <= {_epoch(shown.until)}"
        case _:
            raise ValueError(f"unknown macro {name}")


def _sqlstring(values: Sequence[str]) -> str:
    escaped = (value.replace("'", "''").replace('"', '\\"') for value in values)
    return ",".join(f"'{value}'" for value in escaped)


def _literal(moment: datetime) -> str:
    return "'" + moment.astimezone(UTC).isoformat().replace("+00:00", "Z") + "'"


def _epoch(moment: datetime) -> str:
    return str(int(moment.timestamp()))
