"""How the pipeline is: throughput, lag, latency, dead letters, the ledger, and what it depends on."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.board import Row, board
from deploy.grafana.panels import Column, Said, Steps, chart, rows, stat_panel, timeline
from deploy.grafana.targets import Sql, prom, quantiles

_LAG: Steps = ((800, "orange"), (10_000, "red"))
"""Messages; at 800 the alert `queue-depth` fires."""
_AGE: Steps = ((60, "orange"), (300, "red"))
"""Seconds."""


def operations() -> Dashboard:
    """The dashboard `slate-operations`."""
    return board(
        "slate-operations",
        "SLATE operations",
        "Whether events are stored and counted in time, and what is in the way.",
        [_now(), _ingest(), _trouble(), _rollups(), _around(), _ledger()],
        since="now-1h",
        refresh="10s",
    )


def _now() -> Row:
    return "Now", [
        stat_panel(
            Said(
                title="Workers",
                description="Processes that answer Prometheus. Below those that should run: see the alert "
                "SlateWorkerDown.",
                none="Nothing is scraped",
                base="red",
                steps=((1, "green"),),
                width=4,
                height=4,
                targets=[prom('sum(up{job=~"slate-.+"})')],
            )
        ),
        stat_panel(
            Said(
                title="Stored per second",
                description="Messages written to the ledger, of all partitions.",
                unit="cps",
                none="Nothing yet",
                width=4,
                height=4,
                targets=[prom("sum(rate(spark_ingest_messages_total[$__rate_interval]))")],
            )
        ),
        stat_panel(
            Said(
                title="Wait to be stored",
                description="Messages of the stream that ingest has not handed on yet.",
                none="No worker says",
                steps=_LAG,
                width=4,
                height=4,
                targets=[prom("sum(max by (partition) (spark_ingest_lag_messages))")],
            )
        ),
        stat_panel(
            Said(
                title="Last commit",
                description="Time since ingest committed last. It grows while nobody publishes, too: it is bad where "
                "messages wait.",
                unit="s",
                none="No worker says",
                steps=_AGE,
                width=4,
                height=4,
                targets=[prom("time() - max(spark_ingest_last_commit_timestamp_seconds)")],
            )
        ),
        stat_panel(
            Said(
                title="Latency, p99",
                description="From JetStream's receipt of a message to its commit.",
                unit="s",
                none="Nothing stored",
                steps=((0.25, "orange"), (1, "red")),
                width=4,
                height=4,
                targets=[quantiles("spark_ingest_latency_seconds")[1].ref_id("A")],
            )
        ),
        stat_panel(
            Said(
                title="Unaccounted messages",
                description="Read, and neither stored nor a duplicate nor a dead letter. Anything but 0 is a fault.",
                none="No ledger",
                steps=((1, "red"),),
                width=4,
                height=4,
                targets=[Sql("unaccounted.sql")],
            ),
            trend=False,
        ),
    ]


def _ingest() -> Row:
    return "Ingest", [
        chart(
            Said(
                title="Messages per second by partition",
                description="Messages written to the ledger.",
                unit="cps",
                targets=[
                    prom(
                        "sum by (partition) (rate(spark_ingest_messages_total[$__rate_interval]))",
                        "partition {{partition}}",
                    )
                ],
            ),
            stacked=True,
        ),
        chart(
            Said(
                title="Lag by partition",
                description="Messages of the stream that ingest has not handed on yet.",
                steps=_LAG,
                targets=[prom("max by (partition) (spark_ingest_lag_messages)", "partition {{partition}}")],
            )
        ),
        chart(
            Said(
                title="Latency",
                description="From JetStream's receipt of a message to its commit.",
                unit="s",
                steps=((1, "red"),),
                width=8,
                targets=quantiles("spark_ingest_latency_seconds"),
            )
        ),
        chart(
            Said(
                title="Transactions",
                description="Time that a transaction took, retries included.",
                unit="s",
                steps=((1, "red"),),
                width=8,
                targets=quantiles("spark_ingest_batch_seconds"),
            )
        ),
        chart(
            Said(
                title="Messages in a transaction",
                description="Batches grow with load, up to SLATE_BATCH_MESSAGES.",
                width=8,
                targets=[
                    *quantiles("spark_ingest_batch_messages"),
                    prom(
                        "sum(rate(spark_ingest_batch_messages_sum[$__rate_interval])) / "
                        "sum(rate(spark_ingest_batch_messages_count[$__rate_interval]))",
                        "mean",
                        "C",
                    ),
                ],
            )
        ),
        chart(
            Said(
                title="Rows per second by table",
                description="Rows stored.",
                unit="cps",
                targets=[prom("sum by (table) (rate(spark_ingest_rows_total[$__rate_interval]))", "{{table}}")],
            ),
            stacked=True,
        ),
        chart(
            Said(
                title="Time since the last commit",
                description="Of ingest and of the rollups. It grows while nobody publishes, too.",
                unit="s",
                steps=_AGE,
                targets=[
                    prom("time() - max(spark_ingest_last_commit_timestamp_seconds)", "ingest"),
                    prom("time() - max(spark_rollup_last_commit_timestamp_seconds)", "rollups", "B"),
                ],
            )
        ),
    ]


def _trouble() -> Row:
    return "What was not stored", [
        chart(
            Said(
                title="Dead letters per second by reason",
                description="Messages, or elements of batches, that could not be stored. `slate dead-letters list` "
                "shows them.",
                unit="cps",
                none="No dead letters",
                width=8,
                targets=[
                    prom(
                        "sum by (stage, reason) (rate(spark_ingest_dead_letters_total[$__rate_interval]))",
                        "{{stage}}: {{reason}}",
                    )
                ],
            ),
            stacked=True,
        ),
        chart(
            Said(
                title="Duplicates per second",
                description="Messages whose event was stored before: publishers send again what was not acknowledged.",
                unit="cps",
                width=8,
                targets=[prom("sum(rate(spark_ingest_duplicates_total[$__rate_interval]))", "duplicates")],
            )
        ),
        chart(
            Said(
                title="Retries per second by reason",
                description="Transactions tried again; the reason is an SQLSTATE or the name of an error.",
                unit="cps",
                none="No retries",
                steps=((0.1, "orange"),),
                width=8,
                targets=[
                    prom("sum by (reason) (rate(spark_ingest_retries_total[$__rate_interval]))", "ingest: {{reason}}"),
                    prom(
                        "sum by (reason) (rate(spark_rollup_retries_total[$__rate_interval]))",
                        "rollups: {{reason}}",
                        "B",
                    ),
                ],
            )
        ),
    ]


def _rollups() -> Row:
    return "Rollups", [
        chart(
            Said(
                title="Counted per second by partition",
                description="Messages counted in the daily tables and windows.",
                unit="cps",
                width=8,
                targets=[
                    prom(
                        "sum by (partition) (rate(spark_rollup_messages_total[$__rate_interval]))",
                        "partition {{partition}}",
                    )
                ],
            ),
            stacked=True,
        ),
        chart(
            Said(
                title="Lag by partition",
                description="Messages of the stream that the rollups have not taken yet. Alerts wait for the slowest.",
                steps=_LAG,
                width=8,
                targets=[prom("max by (partition) (spark_rollup_lag_messages)", "partition {{partition}}")],
            )
        ),
        chart(
            Said(
                title="Transactions",
                description="Time that a transaction of the rollups took, retries included.",
                unit="s",
                steps=((2.5, "red"),),
                width=8,
                targets=quantiles("spark_rollup_flush_seconds"),
            )
        ),
        chart(
            Said(
                title="Drift",
                description="Totals of today and yesterday that differ from the tables, when it was looked last. "
                "Anything but 0 is a fault: `slate audit --repair`.",
                none="Not looked at yet",
                steps=((1, "red"),),
                targets=[prom("max by (rollup) (spark_rollup_drift)", "{{rollup}}")],
            )
        ),
        chart(
            Said(
                title="Late and refused per second",
                description="What came after its window was to be closed, and totals beyond their column.",
                unit="cps",
                targets=[
                    prom("sum(rate(spark_rollup_late_total[$__rate_interval]))", "late"),
                    prom("sum(rate(spark_rollup_refused_total[$__rate_interval]))", "refused", "B"),
                ],
            )
        ),
    ]


def _around() -> Row:
    return "Around", [
        chart(
            Said(
                title="Outbox",
                description="Events of sessions that JetStream has not acknowledged yet. They are kept on disk.",
                none="No sessions are scraped",
                steps=((1000, "orange"),),
                width=8,
                targets=[prom("sum by (instance) (spark_outbox_pending)", "{{instance}}")],
            )
        ),
        chart(
            Said(
                title="Outbox: acknowledgement",
                description="From a session's event to JetStream's acknowledgement.",
                unit="s",
                none="No sessions are scraped",
                steps=((1, "red"),),
                width=8,
                targets=quantiles("spark_outbox_ack_seconds"),
            )
        ),
        chart(
            Said(
                title="Analytics",
                description="Closed windows that wait for SLATE_ANALYTICS_URL.",
                none="No receiver",
                steps=((1000, "orange"),),
                width=8,
                targets=[prom("sum(spark_analytics_pending_windows)", "waiting")],
            )
        ),
        timeline(
            Said(
                title="Circuit breakers",
                description="What other systems are left alone, as the process sees it that has it worst.",
                none="No breaker is in use",
                steps=((2, "red"),),
                targets=[prom("max by (name) (spark_circuit_breaker_state)", "{{name}}")],
            ),
            {0: ("closed", "green"), 1: ("half-open", "orange"), 2: ("open", "red")},
        ),
        timeline(
            Said(
                title="Redis",
                description="Where a process does without Redis, and so without the others.",
                none="Nothing uses Redis",
                steps=((1, "red"),),
                targets=[prom("max by (part) (spark_redis_away)", "{{part}}")],
            ),
            {0: ("there", "green"), 1: ("away", "red")},
        ),
    ]


def _ledger() -> Row:
    return "Ledger", [
        rows(
            Said(
                title="Ledger",
                description="read = stored + duplicate + dead_lettered, for each partition; uncounted waits for the "
                "rollups.",
                none="Nothing was ever read",
                width=24,
                targets=[Sql("ledger.sql")],
            ),
            unaccounted=Column(steps=((1, "red"),)),
            lost=Column(steps=((1, "red"),)),
            uncounted=Column(steps=_LAG),
            written_ago=Column(unit="s"),
        ),
        rows(
            Said(
                title="Lost before they were read",
                description="Sequences that left the stream unread, for each partition that may have been theirs: the "
                "stream is too small, or somebody purged it.",
                none="Nothing was lost",
                width=24,
                height=6,
                targets=[Sql("gaps.sql")],
            ),
            sequences=Column(steps=((1, "red"),)),
        ),
    ]
