"""Alert rules that Grafana evaluates: what only tables know. Others are Prometheus' or of `deploy/alerts.toml`."""

from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import expr
from grafana_foundation_sdk.models.common import DataSourceRef

from deploy.grafana.targets import POSTGRES, series

FOLDER: Final = "SLATE"
RECEIVER: Final = "slate-alertmanager"
"""Contact point of `provisioning/alerting/contact-points.yaml`."""
_EXPRESSION: Final = DataSourceRef(type_val="__expr__", uid="__expr__")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Fires while the figure that a statement gives is above 0."""

    uid: str
    title: str
    file: str
    """Below `sql/grafana/rules`: one row, with `time` and a figure."""
    severity: str
    summary: str
    description: str
    runbook: str
    """A heading of docs/runbooks.md."""


RULES: Final = (
    Rule(
        uid="slate-dead-letters-waiting",
        title="SlateDeadLettersWaiting",
        file="dead_letters_waiting.sql",
        severity="warning",
        summary="Messages that were right wait for a replay since yesterday",
        description="PostgreSQL refused them, or a publisher could not deliver them: nothing is wrong with them.",
        runbook="dead-letters-waiting",
    ),
    Rule(
        uid="slate-months-missing",
        title="SlateMaintenanceMissed",
        file="months_missing.sql",
        severity="warning",
        summary="There is no partition for next month's events",
        description="Nobody runs `slate maintain`: nothing is deleted either that should be.",
        runbook="maintenance-missed",
    ),
    Rule(
        uid="slate-critical-unacknowledged",
        title="SlateCriticalUnacknowledged",
        file="critical_unacknowledged.sql",
        severity="critical",
        summary="A critical alert fires for 15 minutes, and nobody has taken it on",
        description="Receivers may be deaf. `slate alerts list` shows it, `slate alerts ack` takes it on.",
        runbook="critical-unacknowledged",
    ),
    Rule(
        uid="slate-builds-stuck",
        title="SlateBuildsStuck",
        file="builds_stuck.sql",
        severity="warning",
        summary="Nothing was heard of a build for an hour",
        description="Its end was not published, or the build machine is gone.",
        runbook="builds-stuck",
    ),
)


def provisioned() -> dict[str, Any]:
    """The rules as file provisioning takes them.

    No text in it has a `$`, which Grafana would take for an environment variable.
    """
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "slate-tables",
                "folder": FOLDER,
                "interval": "1m",
                "rules": [_rule(rule) for rule in RULES],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": "C",
        "data": [
            _query("A", str(POSTGRES.uid), series(f"rules/{rule.file}")),
            _query("B", "__expr__", _last_of("A")),
            _query("C", "__expr__", _above_zero("B")),
        ],
        "for": "5m",
        "noDataState": "Alerting",
        "execErrState": "Error",
        "labels": {"severity": rule.severity},
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "runbook": f"docs/runbooks.md#{rule.runbook}",
        },
        "notification_settings": {"receiver": RECEIVER},
        "isPaused": False,
    }


def _query(ref: str, source: str, model: object) -> dict[str, Any]:
    return {
        "refId": ref,
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": source,
        "model": model,
    }


def _last_of(ref: str) -> object:
    return expr.TypeReduce().ref_id("B").datasource(_EXPRESSION).expression(ref).reducer("last").build()


def _above_zero(ref: str) -> object:
    evaluator = expr.ExprTypeThresholdConditionsEvaluator().type("gt").params([0])
    condition = expr.ExprTypeThresholdConditions().evaluator(evaluator)
    return expr.TypeThreshold().ref_id("C").datasource(_EXPRESSION).expression(ref).conditions([condition]).build()
