"""Prometheus metrics of the workers, all named `spark_*`."""

import json
import socket
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from connectors.health import LIVE, READY, Health
from connectors.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = structlog.get_logger(__name__)

MESSAGES: Final = Counter("spark_ingest_messages", "Messages written to the ledger", ["partition"])
ROWS: Final = Counter("spark_ingest_rows", "Rows stored", ["table"])
DUPLICATES: Final = Counter("spark_ingest_duplicates", "Messages whose event was stored before")
DEAD_LETTERS: Final = Counter("spark_ingest_dead_letters", "Dead letters", ["stage", "reason"])
LOST: Final = Counter("spark_ingest_lost_messages", "Sequences that left the stream unread", ["partition"])
CLOCK_AHEAD: Final = Gauge("spark_clock_ahead_seconds", "How far our clock is ahead of that of a server", ["server"])
NATS_UP: Final = Gauge("spark_nats_up", "Whether we are connected to NATS")
TIMELINE: Final = Gauge("spark_database_timeline", "The database's timeline: another one since a failover or a restore")
RETRIES: Final = Counter("spark_ingest_retries", "Transactions tried again", ["reason"])
LAG: Final = {
    purpose: Gauge(f"spark_{name}_lag_messages", "Messages of the stream not handed on yet", ["partition"])
    for purpose, name in (("ingest", "ingest"), ("rollups", "rollup"))
}
"""By who reads."""
STREAM_PARTITIONS: Final = Gauge("spark_stream_partitions", "Partitions of the stream as the server has it")
LAST_COMMIT: Final = Gauge("spark_ingest_last_commit_timestamp_seconds", "Time of the last commit, since 1970")
BATCH_MESSAGES: Final = Histogram(
    "spark_ingest_batch_messages",
    "Messages in a transaction",
    buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
)
BATCH_SECONDS: Final = Histogram(
    "spark_ingest_batch_seconds",
    "Time a transaction took, retries included",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)

ROLLUP_MESSAGES: Final = Counter("spark_rollup_messages", "Messages counted", ["partition"])
ROLLUP_LATE: Final = Counter("spark_rollup_late", "What came after its window of one minute was to be closed")
ROLLUP_REFUSED: Final = Counter("spark_rollup_refused", "Totals that are beyond their column")
ROLLUP_RETRIES: Final = Counter("spark_rollup_retries", "Transactions tried again", ["reason"])
ROLLUP_LAST_COMMIT: Final = Gauge("spark_rollup_last_commit_timestamp_seconds", "Time of the last commit, since 1970")
ROLLUP_DRIFT: Final = Gauge(
    "spark_rollup_drift", "Totals of today and yesterday that differ from the tables", ["rollup"]
)
ROLLUP_FLUSH_SECONDS: Final = Histogram(
    "spark_rollup_flush_seconds",
    "Time a transaction took, retries included",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
ANALYTICS_SENT: Final = Counter("spark_analytics_windows_sent", "Closed windows that the receiver has taken")
ANALYTICS_FAILURES: Final = Counter("spark_analytics_failures", "Requests that the receiver did not take", ["reason"])
ANALYTICS_PENDING: Final = Gauge("spark_analytics_pending_windows", "Closed windows of the next request")
ALERTS_FIRING: Final = Gauge("spark_alerts_firing", "Alerts that fire", ["severity"])
ALERT_TRANSITIONS: Final = Counter("spark_alert_transitions", "Alerts that began or ended", ["state"])
ALERT_EVALUATED: Final = Gauge(
    "spark_alert_evaluated_timestamp_seconds", "Event time up to which rules are evaluated, since 1970"
)
ALERT_LATE: Final = Gauge("spark_alert_late_rows", "Figures that came after every window that they belong to")
ALERT_UNTRACKED: Final = Gauge("spark_alert_untracked_rows", "Figures of groups beyond what is looked at")
ALERT_RULES_VALID: Final = Gauge("spark_alert_rules_valid", "Whether the rules file, as it is now, is in force")
ALERT_EVALUATION_SECONDS: Final = Histogram(
    "spark_alert_evaluation_seconds",
    "Time a look at all rules took",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
ALERT_DELIVERIES: Final = Counter("spark_alert_deliveries", "Alerts by what became of them", ["receiver", "state"])
ALERT_FAILURES: Final = Counter("spark_alert_delivery_failures", "Attempts that failed", ["receiver", "reason"])
ALERT_PENDING: Final = Gauge("spark_alert_pending_deliveries", "Alerts that wait for a receiver", ["receiver"])


class BatchLatency(Collector):
    """A histogram that takes a batch at a time: one binary search per bucket instead of an update per message."""

    BOUNDS: Final = (
        0.001,
        0.002,
        0.003,
        0.005,
        0.0075,
        0.01,
        0.015,
        0.02,
        0.03,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        5,
        30,
        300,
    )

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._counts = [0] * (len(self.BOUNDS) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, started_ns: Sequence[int], now_ns: int) -> None:
        """Add what took from each of `started_ns` (ascending) until `now_ns`."""
        if not started_ns:
            return
        end = len(started_ns)
        for bucket, bound in enumerate(self.BOUNDS):
            begin = bisect_right(started_ns, now_ns - int(bound * 1e9) - 1, 0, end)
            self._counts[bucket] += end - begin
            end = begin
            if not end:
                break
        self._counts[-1] += end
        self._sum += (now_ns * len(started_ns) - sum(started_ns)) / 1e9

    def collect(self) -> Iterable[Metric]:
        """The histogram as Prometheus reads it."""
        totals = list(accumulate(self._counts))
        buckets = [(str(bound), float(n)) for bound, n in zip(self.BOUNDS, totals, strict=False)]
        yield HistogramMetricFamily(
            self._name, self._text, buckets=[*buckets, ("+Inf", float(totals[-1]))], sum_value=self._sum
        )


LATENCY: Final = BatchLatency("spark_ingest_latency_seconds", "From JetStream's receipt of a message to its commit")


def serve(settings: Settings, health: Health | None = None) -> int:
    """Serve the metrics over HTTP, and `health` for probes; on a free port where the set one is taken.

    Returns the port, 0 for none.
    """
    if not settings.metrics_port:
        return 0
    port = settings.metrics_port
    try:
        server, _ = start_http_server(port, settings.metrics_host)
    except OSError as error:
        with socket.socket() as probe:
            probe.bind((settings.metrics_host, 0))
            port = probe.getsockname()[1]
        _log.warning("metrics port taken", wanted=settings.metrics_port, used=port, error=str(error))
        server, _ = start_http_server(port, settings.metrics_host)
    if health is not None:
        server.set_app(_with_health(health, server.get_app()))
    _log.info("serving metrics", host=settings.metrics_host, port=port)
    return port


def _with_health(health: Health, others: "WSGIApplication | None") -> "WSGIApplication":
    """Answers probes (200, or 503 and what is wrong), and lets `others` answer the rest."""
    assert others is not None  # noqa: S101 - the library has set it

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in (LIVE, READY):
            return others(environ, start_response)
        report = health.live() if path == LIVE else health.ready()
        status = "200 OK" if report.ok else "503 Service Unavailable"
        start_response(status, [("content-type", "application/json"), ("cache-control", "no-store")])
        return [json.dumps(report._asdict()).encode()]

    return answer


class Pace:
    """Says in a line how far behind the process is, and how fast it has worked since it was asked last."""

    def __init__(self) -> None:
        self._at = monotonic()
        self._handled = _total(MESSAGES, ROLLUP_MESSAGES)

    def __call__(self) -> str:
        """`lag 12, 4,800 msg/s`."""
        now, handled = monotonic(), _total(MESSAGES, ROLLUP_MESSAGES)
        rate = (handled - self._handled) / max(now - self._at, 1e-3)
        self._at, self._handled = now, handled
        return f"lag {_total(*LAG.values()):,.0f}, {rate:,.0f} msg/s"


def _total(*those: Counter | Gauge) -> float:
    samples = [sample for one in those for family in one.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if not sample.name.endswith("_created"))
