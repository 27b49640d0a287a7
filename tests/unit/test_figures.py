"""From metrics and counts to the figures of the live view."""

import math

import pytest

from deploy.figures import Collector, Counts, Scrape, quantile

METRICS = """
# TYPE spark_ingest_messages counter
spark_ingest_messages_total{partition="0"} 70.0
spark_ingest_messages_total{partition="1"} 30.0
# TYPE spark_ingest_rows counter
spark_ingest_rows_total{table="spark_usage"} 40.0
spark_ingest_rows_total{table="spark_events"} 50.0
# TYPE spark_ingest_duplicates counter
spark_ingest_duplicates_total 4.0
# TYPE spark_ingest_dead_letters counter
spark_ingest_dead_letters_total{stage="validate",reason="missing"} 2.0
spark_ingest_dead_letters_total{stage="subject",reason="missing"} 1.0
spark_ingest_dead_letters_total{stage="decode",reason="not_json"} 3.0
# TYPE spark_ingest_lag_messages gauge
spark_ingest_lag_messages{partition="0"} 5.0
spark_ingest_lag_messages{partition="1"} 6.0
# TYPE spark_ingest_last_commit_timestamp_seconds gauge
spark_ingest_last_commit_timestamp_seconds 1.5e+09
# TYPE spark_ingest_latency_seconds histogram
spark_ingest_latency_seconds_bucket{le="0.001"} 0.0
spark_ingest_latency_seconds_bucket{le="0.01"} 90.0
spark_ingest_latency_seconds_bucket{le="0.1"} 100.0
spark_ingest_latency_seconds_bucket{le="+Inf"} 100.0
spark_ingest_latency_seconds_count 100.0
spark_ingest_latency_seconds_sum 0.7
# TYPE spark_ingest_retries counter
spark_ingest_retries_total{reason="deadlock"} 1.0
# TYPE spark_ingest_lost_messages counter
spark_ingest_lost_messages_total{partition="0"} 7.0
# TYPE python_info gauge
python_info{version="3.11"} 1.0
"""


def test_metrics_are_summed_over_partitions_and_stages() -> None:
    scrape = Scrape.parse(METRICS)
    assert scrape.messages == 100
    assert scrape.rows == {"spark_usage": 40, "spark_events": 50}
    assert scrape.dead_letters == {"missing": 3, "not_json": 3}
    assert (scrape.lag, scrape.duplicates, scrape.retries, scrape.lost) == (11, 4, 1, 7)
    assert scrape.last_commit == 1.5e9
    assert scrape.latency == {0.001: 0, 0.01: 90, 0.1: 100, math.inf: 100}


def test_quantiles_are_interpolated_within_a_bucket() -> None:
    buckets = {0.01: 50.0, 0.02: 100.0, math.inf: 100.0}
    assert quantile(0.25, buckets) == pytest.approx(0.005)
    assert quantile(0.75, buckets) == pytest.approx(0.015)
    assert quantile(1.0, buckets) == pytest.approx(0.02)


def test_a_quantile_beyond_the_last_bound_is_that_bound_and_of_nothing_is_none() -> None:
    assert quantile(0.99, {0.01: 1.0, math.inf: 100.0}) == 0.01
    assert quantile(0.5, {0.01: 0.0, math.inf: 0.0}) is None
    assert quantile(0.5, {}) is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    collector = Collector()
    for second in range(20):
        messages = 100 * min(second, 10)
        figures = collector.update(second, 0, {1: Scrape(messages=messages)})
        if second == 10:
            assert figures.rate == pytest.approx(100)
    assert figures.rate == 0
    assert figures.history == (100.0,) * 10 + (0.0,) * 9


def test_what_a_worker_counted_before_we_looked_is_no_rate() -> None:
    collector = Collector()
    assert collector.update(0, 0, {1: Scrape(messages=1_000_000)}).rate == 0
    assert collector.update(1, 0, {1: Scrape(messages=1_000_010)}).rate == pytest.approx(10)


def test_a_restarted_worker_counts_from_zero_again() -> None:
    collector = Collector()
    collector.update(0, 0, {1: Scrape(messages=500, duplicates=10)})
    collector.update(1, 0, {1: None})
    figures = collector.update(2, 0, {1: Scrape(messages=20, duplicates=3)})
    assert figures.rate == pytest.approx(10)
    assert figures.duplicates == 3


def test_rows_are_the_database_s_count_and_what_was_written_since() -> None:
    collector = Collector()
    collector.update(0, 0, {1: Scrape(rows={"spark_usage": 7}, dead_letters={"nul": 1})})
    collector.counted(Counts({"spark_usage": 1000, "spark_events": 5}, {"nul": 4}))
    figures = collector.update(1, 0, {1: Scrape(rows={"spark_usage": 9}, dead_letters={"nul": 1, "empty": 2})})
    assert figures.rows == {"spark_usage": 1002, "spark_events": 5}
    assert figures.dead_letters == {"nul": 4, "empty": 2}
    collector.counted(Counts({"spark_usage": 1002, "spark_events": 6}, {}))
    assert collector.update(2, 0, {}).rows == {"spark_usage": 1002, "spark_events": 6}


def test_latency_is_that_of_the_last_seconds_over_all_workers() -> None:
    collector = Collector()
    collector.update(0, 0, {1: Scrape(), 2: Scrape()})
    quick, slow = {0.01: 99.0, 1.0: 99.0, math.inf: 99.0}, {0.01: 0.0, 1.0: 1.0, math.inf: 1.0}
    figures = collector.update(1, 0, {1: Scrape(latency=quick), 2: Scrape(latency=slow)})
    assert figures.latency_p50 == pytest.approx(0.005, rel=0.05)
    assert figures.latency_p99 == pytest.approx(0.01, rel=0.05)
    assert collector.update(30, 0, {1: Scrape(latency=quick)}).latency_p50 is None


def test_the_age_of_the_last_commit_is_that_of_the_newest() -> None:
    collector = Collector()
    scrapes = {1: Scrape(last_commit=90.0), 2: Scrape(last_commit=95.0)}
    assert collector.update(0, 100.0, scrapes).commit_age == 5.0
    assert collector.update(1, 100.0, {1: Scrape()}).commit_age is None


def test_the_lag_is_unknown_while_no_worker_answers() -> None:
    collector = Collector()
    assert collector.update(0, 0, {1: None}).lag is None
    assert collector.update(1, 0, {1: Scrape(lag=4), 2: Scrape(lag=5), 3: None}).lag == 9
