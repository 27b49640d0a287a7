"""What people do with SPARK: usage and cost, calls, scripts, previews, builds, sessions."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.board import Row, board, choice, fixed_choice
from deploy.grafana.panels import Column, Said, Steps, chart, rows, stat_panel
from deploy.grafana.targets import Sql, series
from flows.events import ENGINES

_ERRORS: Steps = ((0.05, "orange"), (0.10, "red"))
"""Share of calls; where `function-errors` and `function-errors-critical` fire."""
_PREVIEW_ERRORS: Steps = ((0.20, "red"),)
_SLOW: Steps = ((3000, "orange"), (5000, "red"))
"""Milliseconds; where the alerts on script generation fire."""
_MODEL: Final = "${__field.labels.model}"
_FUNCTION: Final = "${__field.labels.function}"
_STATUS: Final = "${__field.labels.status}"


def product() -> Dashboard:
    """The dashboard `slate-product`."""
    return board(
        "slate-product",
        "SLATE product",
        "Usage and cost, function calls, scripts, previews, builds and sessions.",
        [_totals(), _usage(), _calls(), _made(), _sessions()],
        since="now-24h",
        refresh="1m",
        variables=[
            choice("model", "Model", "Models whose usage is shown", "models.sql"),
            choice("function", "Function", "Functions whose calls are shown", "functions.sql"),
            fixed_choice("engine", "Engine", "Engines whose previews are shown", sorted(ENGINES)),
        ],
    )


def _totals() -> Row:
    return "Totals", [
        stat_panel(
            Said(
                title="Tokens and cost",
                description="Of the models chosen, US dollars.",
                none="No usage",
                width=8,
                height=4,
                targets=[Sql("usage_totals.sql")],
            ),
            trend=False,
            cost=Column(unit="currencyUSD"),
        ),
        stat_panel(
            Said(
                title="Calls",
                description="Calls of the functions chosen, and the share of them that failed.",
                none="No calls",
                width=8,
                height=4,
                targets=[Sql("call_totals.sql")],
            ),
            trend=False,
            error_rate=Column(unit="percentunit", steps=_ERRORS),
        ),
        stat_panel(
            Said(
                title="Active sessions",
                description="Sessions that began within a day and have not ended.",
                none="No sessions",
                width=8,
                height=4,
                targets=[Sql("sessions_active.sql")],
            ),
            trend=False,
        ),
    ]


def _usage() -> Row:
    return "Usage", [
        chart(
            Said(
                title="Tokens by model",
                description="Tokens of prompts and completions.",
                none="No usage",
                targets=[series("usage_tokens.sql")],
            ),
            name=_MODEL,
            bars=True,
            stacked=True,
            interval="1m",
        ),
        chart(
            Said(
                title="Cost by day and model",
                description="Estimated cost of each UTC day, whole days.",
                unit="currencyUSD",
                none="No usage",
                steps=((500, "red"),),
                targets=[series("usage_cost_daily.sql")],
            ),
            name=_MODEL,
            bars=True,
            stacked=True,
            interval="1d",
        ),
        rows(
            Said(
                title="Usage by model",
                description="Of the UTC days that are shown, whole days.",
                none="No usage",
                width=24,
                height=6,
                targets=[Sql("usage_by_model.sql")],
            ),
            cost=Column(unit="currencyUSD"),
        ),
    ]


def _calls() -> Row:
    return "Function calls", [
        chart(
            Said(
                title="Calls by function",
                description="Calls, whatever their outcome.",
                none="No calls",
                width=8,
                targets=[series("calls.sql")],
            ),
            name=_FUNCTION,
            bars=True,
            stacked=True,
            interval="1m",
        ),
        chart(
            Said(
                title="Error rate by function",
                description="Share of calls that failed.",
                unit="percentunit",
                none="No calls",
                steps=_ERRORS,
                width=8,
                targets=[series("call_errors.sql")],
            ),
            name=_FUNCTION,
            interval="1m",
        ),
        chart(
            Said(
                title="Duration by function, p95",
                description="95 % of calls took no longer; right to 1 %. Over weeks, of every third window.",
                unit="ms",
                none="No calls told how long they took",
                steps=_SLOW,
                width=8,
                targets=[series("call_p95.sql")],
            ),
            name=_FUNCTION,
            interval="1m",
        ),
        rows(
            Said(
                title="Functions",
                description="Calls, share of failed ones and durations, right to 1 %.",
                none="No calls",
                width=24,
                height=6,
                targets=[Sql("call_latencies.sql")],
            ),
            error_rate=Column(unit="percentunit", steps=_ERRORS),
            p50_ms=Column(unit="ms"),
            p95_ms=Column(unit="ms", steps=_SLOW),
            p99_ms=Column(unit="ms"),
        ),
    ]


def _made() -> Row:
    return "What was made", [
        chart(
            Said(
                title="Scripts per hour",
                description="Scripts that the assistant wrote, all versions.",
                none="No scripts",
                width=8,
                targets=[series("scripts.sql")],
            ),
            bars=True,
        ),
        chart(
            Said(
                title="Previews",
                description="Previews of the engines chosen that were ready, and those that failed.",
                none="No previews",
                width=8,
                targets=[series("previews.sql")],
            ),
            name=_STATUS,
            bars=True,
            stacked=True,
            interval="1m",
        ),
        chart(
            Said(
                title="Builds",
                description="By what became of them, over the time at which they began.",
                none="No builds",
                width=8,
                targets=[series("builds_over_time.sql")],
            ),
            name=_STATUS,
            bars=True,
            stacked=True,
            interval="1m",
        ),
        rows(
            Said(
                title="Previews by engine",
                description="Previews that were ready and that failed.",
                none="No previews",
                targets=[Sql("previews_by_engine.sql")],
            ),
            failure_rate=Column(unit="percentunit", steps=_PREVIEW_ERRORS),
        ),
        rows(
            Said(
                title="Builds by target and status",
                description="Builds, and how long they took on average.",
                none="No builds",
                targets=[Sql("builds.sql")],
            ),
            status=Column(colours={"completed": "green", "failed": "red", "building": "blue", "queued": "text"}),
            seconds=Column(unit="s"),
        ),
    ]


def _sessions() -> Row:
    return "Sessions", [
        chart(
            Said(
                title="Sessions that began and ended",
                description="A session that fell silent never ends.",
                none="No sessions",
                targets=[series("sessions_opened.sql")],
            ),
            name="${__field.labels.what}",
            bars=True,
            interval="1m",
        ),
        rows(
            Said(
                title="Active sessions by model and mode",
                description="Sessions that began within a day and have not ended.",
                none="No sessions",
                targets=[Sql("sessions_by_model.sql")],
            )
        ),
    ]
