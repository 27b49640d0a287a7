"""Which alerts fire and fired, who was told, and the dead letters."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.board import Row, board
from deploy.grafana.panels import SEVERITIES, STATES, Column, Said, chart, rows, stat_panel
from deploy.grafana.targets import Sql, prom, series

_DELIVERY: Final = Column(
    colours={"delivered": "green", "silenced": "blue", "pending": "orange", "refused": "red", "given up": "red"}
)


def alerts() -> Dashboard:
    """The dashboard `slate-alerts`."""
    return board(
        "slate-alerts",
        "SLATE alerts",
        "Alerts of deploy/alerts.toml: what fires, what fired, who was told; and dead letters.",
        [_now(), _history(), _deliveries(), _dead_letters()],
        since="now-24h",
        refresh="30s",
    )


def _now() -> Row:
    return "Now", [
        stat_panel(
            Said(
                title="Firing",
                description="Alerts that fire, by severity.",
                none="Nothing fires",
                steps=((1, "red"),),
                width=12,
                height=4,
                targets=[Sql("alerts_firing_count.sql")],
            ),
            trend=False,
        ),
        stat_panel(
            Said(
                title="Evaluated up to",
                description="How far behind the clock rules on events are evaluated: 3 to 9 seconds when all is well.",
                unit="s",
                none="Nobody evaluates",
                steps=((30, "orange"), (120, "red")),
                width=6,
                height=4,
                targets=[prom("time() - max(spark_alert_evaluated_timestamp_seconds)")],
            )
        ),
        stat_panel(
            Said(
                title="Rules file in force",
                description="1 where the rules file, as it is now, is in force; 0 where it has a fault: "
                "`slate alerts check`.",
                none="Nobody evaluates",
                base="red",
                steps=((1, "green"),),
                width=6,
                height=4,
                targets=[prom('min(spark_alert_rules_valid{job="slate-rollups"})')],
            ),
            trend=False,
        ),
        rows(
            Said(
                title="Alerts that fire",
                description="The gravest first. `slate alerts ack` takes one on.",
                none="Nothing fires",
                width=24,
                targets=[Sql("alerts_firing.sql")],
            ),
            severity=SEVERITIES,
        ),
        rows(
            Said(
                title="Silences in force",
                description="What nobody is told of for now: `slate alerts unsilence` ends one.",
                none="No silences",
                width=24,
                height=5,
                targets=[Sql("silences.sql")],
            )
        ),
    ]


def _history() -> Row:
    return "History", [
        chart(
            Said(
                title="Alerts that began",
                description="By rule.",
                none="Nothing fired",
                targets=[series("alerts_begun.sql")],
            ),
            name="${__field.labels.rule}",
            bars=True,
            stacked=True,
            interval="1m",
        ),
        rows(
            Said(
                title="Rules",
                description="How often rules fired, and how long their alerts lasted.",
                none="Nothing fired",
                targets=[Sql("alerts_by_rule.sql")],
            ),
            mean_seconds=Column(unit="s"),
            longest_seconds=Column(unit="s"),
        ),
        rows(
            Said(
                title="What was decided",
                description="Each beginning and end, the latest first, and what became of it at its receivers.",
                none="Nothing fired",
                width=24,
                height=10,
                targets=[Sql("alerts_history.sql")],
            ),
            state=STATES,
            severity=SEVERITIES,
        ),
    ]


def _deliveries() -> Row:
    return "Deliveries", [
        rows(
            Said(
                title="Deliveries",
                description="What became of alerts by receiver.",
                none="Nobody was to be told",
                width=8,
                targets=[Sql("deliveries.sql")],
            ),
            state=_DELIVERY,
        ),
        chart(
            Said(
                title="Waiting",
                description="Alerts that wait for a receiver.",
                none="No receiver is set",
                steps=((10, "orange"),),
                width=8,
                targets=[prom("max by (receiver) (spark_alert_pending_deliveries)", "{{receiver}}")],
            )
        ),
        chart(
            Said(
                title="Failed attempts per second",
                description="By receiver and reason.",
                unit="cps",
                none="No attempt failed",
                steps=((0.1, "orange"),),
                width=8,
                targets=[
                    prom(
                        "sum by (receiver, reason) (rate(spark_alert_delivery_failures_total[$__rate_interval]))",
                        "{{receiver}}: {{reason}}",
                    )
                ],
            )
        ),
        rows(
            Said(
                title="Not delivered",
                description="Alerts that receivers have not taken, the latest first.",
                none="All is delivered",
                width=24,
                targets=[Sql("deliveries_failing.sql")],
            ),
            delivery=_DELIVERY,
        ),
    ]


def _dead_letters() -> Row:
    return "Dead letters", [
        chart(
            Said(
                title="Dead letters by kind of fault",
                description="Messages, or elements of batches, that could not be stored.",
                none="No dead letters",
                targets=[series("dead_letters_over_time.sql")],
            ),
            name="${__field.labels.code}",
            bars=True,
            stacked=True,
            interval="1m",
        ),
        rows(
            Said(
                title="Waiting for a replay",
                description="All that was not replayed: `slate dead-letters replay`.",
                none="No dead letters",
                targets=[Sql("dead_letters_waiting.sql")],
            )
        ),
        rows(
            Said(
                title="Latest dead letters",
                description="Without what was in them, which `slate dead-letters list` shows.",
                none="No dead letters",
                width=24,
                targets=[Sql("dead_letters_latest.sql")],
            )
        ),
    ]
