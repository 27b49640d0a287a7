"""The latency histogram against naive counting, and where metrics are served."""

import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from connectors import metrics
from connectors.metrics import BatchLatency
from connectors.settings import Settings

NOW = 1_772_366_400_000_000_000
EDGES = [int(bound * 1e9) + off for bound in BatchLatency.BOUNDS for off in (-1, 0, 1)]

elapsed = st.integers(-(10**9), 4 * 10**11) | st.integers(0, 10**7) | st.sampled_from(EDGES)
batches = st.lists(st.lists(elapsed), max_size=5)


def samples(histogram: BatchLatency) -> dict[str, float]:
    return {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for family in histogram.collect()
        for sample in family.samples
    }


@given(batches)
def test_a_histogram_of_batches_equals_counting_each_message(those: list[list[int]]) -> None:
    histogram = BatchLatency("spark_test_latency_seconds", "of a test")
    try:
        for one in those:
            histogram.observe(sorted(NOW - ns for ns in one), NOW)
        found = samples(histogram)
    finally:
        REGISTRY.unregister(histogram)
    flat = [ns for one in those for ns in one]
    for bound in BatchLatency.BOUNDS:
        assert found[str(bound)] == sum(ns <= int(bound * 1e9) for ns in flat)
    assert found["+Inf"] == found["count"] == len(flat)
    assert found["sum"] == pytest.approx(sum(flat) / 1e9)


def test_the_bounds_rise_and_tell_the_targets_apart() -> None:
    assert list(BatchLatency.BOUNDS) == sorted(set(BatchLatency.BOUNDS))
    assert {0.01, 0.03} < set(BatchLatency.BOUNDS)  # p50 and p99 of publish-to-visible


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Metrics servers that the test starts; they are stopped afterwards."""
    started: list[Any] = []

    def recorded(*arguments: Any) -> Any:
        started.append(start_http_server(*arguments))
        return started[-1]

    monkeypatch.setattr(metrics, "start_http_server", recorded)
    yield started
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def test_metrics_are_served_on_a_free_port_where_the_set_one_is_taken(servers: list[Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        port = metrics.serve(Settings.load(metrics_port=wanted))
    assert port not in (0, wanted)
    assert len(servers) == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {"spark_ingest_messages", "spark_ingest_dead_letters", "spark_ingest_latency_seconds"} <= families
    ours = {name for name in families if not name.startswith(("python_", "process_"))}
    assert all(name.startswith("spark_") for name in ours)


def test_port_0_serves_no_metrics(servers: list[Any]) -> None:
    assert metrics.serve(Settings.load(metrics_port=0)) == 0
    assert servers == []
