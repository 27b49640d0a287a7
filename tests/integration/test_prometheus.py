"""Prometheus takes our configuration and rules, and finds what dashboards and alerts ask in what processes tell it."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from prometheus_client import start_http_server
from redis.asyncio import Redis

from connectors.breaker import Breaker, CircuitOpenError
from connectors.outbox import Outbox
from connectors.reads import READS
from connectors.settings import Settings
from deploy.embedded import free_port
from deploy.processes import kill_tree, spawn
from realtime.bench_mix import bench_mix
from tests.support.grafana import Target, rules, targets
from tests.support.programs import need_program
from tests.support.run import run
from tests.support.simulated import simulated
from tests.support.stack import Stack
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

PACKAGE: Final = "prometheus"
HERE: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
RULE_FILES: Final = sorted((HERE / "rules").glob("*.yml"))
TARGETS: Final = targets("slate-prometheus")
QUIET: Final = {"spark_ingest_retries_total", "spark_rollup_retries_total"}
"""Counters that are there only when something went wrong that this run does not bring about."""
_STRING: Final = re.compile(r'"[^"]*"')
_METRIC: Final = re.compile(r"\b(?:spark_\w+|process_\w+)\b")
_RECORDED: Final = re.compile(r"\b(?:slate|partition):[\w:]+")


def alerting() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in _rules() if "alert" in rule]


def _rules() -> list[dict[str, Any]]:
    return [
        rule for one in RULE_FILES for group in yaml.safe_load(one.read_text())["groups"] for rule in group["rules"]
    ]


def promtool(*arguments: str | Path) -> str:
    done = run([need_program("promtool", PACKAGE), *arguments])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration() -> None:
    said = promtool("check", "config", HERE / "prometheus.yml")
    assert "3 rule files found" in said
    assert all("file_sd" in line for line in said.splitlines() if "WARNING" in line), said


def test_rules_are_right() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


def test_each_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    files = sorted((HERE / "tests").glob("*.yml"))
    assert "SUCCESS" in promtool("test", "rules", *files)
    tests = [test for one in files for test in yaml.safe_load(one.read_text())["tests"]]
    tried = [one for test in tests for one in test.get("alert_rule_test", ())]
    assert {one["alertname"] for one in tried if one["exp_alerts"]} == {one["alert"] for one in alerting()}


def test_each_alert_says_how_grave_it_is_what_it_means_and_where_to_read_on() -> None:
    told = alerting()
    names = [one["alert"] for one in told]
    assert len(set(names)) == len(names)
    for rule in told:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
    runbooks = [one["annotations"]["runbook"] for one in [*told, *rules()]]
    assert len(set(runbooks)) == len(runbooks)
    for rule in told:
        words = re.sub(r"(?<!^)([A-Z])", r"-\1", rule["alert"].removeprefix("Slate")).lower()
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{words}"


def test_what_alerts_ask_of_recorded_figures_is_recorded() -> None:
    recorded = {one["record"] for one in _rules() if "record" in one}
    asked = {name for rule in _rules() for name in _RECORDED.findall(str(rule["expr"]))}
    assert asked <= recorded


@dataclass
class Prometheus:
    """A real one, which has scraped real workers for a while."""

    url: str
    began: float
    declared: set[str]
    """Names of the samples of all metrics that processes declare, whether they have any or not."""

    def get(self, path: str, **arguments: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=arguments, timeout=10)
        assert answer.is_success, answer.text
        assert "warnings" not in answer.json()
        return answer.json()["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives over the time of the run."""
        now = str(time.time())
        found: list[dict[str, Any]] = self.get(
            "query_range", query=expression, start=str(self.began), end=now, step="1"
        )["result"]
        return found

    def count(self, expression: str) -> int:
        """How many series an expression gives, none before it answers."""
        try:
            return len(self.series(expression))
        except httpx.HTTPError:
            return 0


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = need_program("prometheus", PACKAGE)
    directory = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as opened:
        settings = opened.enter_context(stack.provide())
        workers = opened.enter_context(simulated(settings, directory, minutes=30))
        port = opened.enter_context(_serving_metrics())
        ports = {"ingest": workers[0].metrics_port, "rollups": workers[1].metrics_port, "sessions": port}
        url = f"http://127.0.0.1:{free_port()}"
        began = time.time()
        process = spawn(
            [
                str(program),
                f"--config.file={_configured(directory, ports)}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            log=directory / "prometheus.log",
            environment={"PATH": "/usr/bin:/bin"},
        )
        opened.callback(kill_tree, process)
        found = Prometheus(url, began, set().union(*(_declared(one) for one in ports.values())))
        eventually(lambda: found.count("up == 1") == len(ports), 20, what="all is scraped")
        with Traffic(settings, rate=300, events=bench_mix(1200)):
            asyncio.run(_use_sessions(settings, directory / "outbox"))
        eventually(lambda: found.count("slate:ingest_messages:rate5m > 0"), 20, what="rules are evaluated")
        eventually(lambda: found.count("increase(spark_outbox_ack_seconds_count[1m]) > 0"), 20, what="sessions count")
        eventually(lambda: found.count("slate:rollup_lag_messages:sum == 0"), 20, what="all is counted")
        yield found


def _configured(directory: Path, ports: dict[str, int]) -> Path:
    """Our configuration, on the ports of this run, and quicker."""
    told = yaml.safe_load((HERE / "prometheus.yml").read_text())
    told["global"] |= {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"}
    del told["alerting"]
    told["rule_files"] = [str(HERE / one) for one in told["rule_files"]]
    (directory / "targets").mkdir()
    for job in told["scrape_configs"]:
        job.pop("static_configs", None)
        (files,) = job["file_sd_configs"]
        name = job["job_name"].removeprefix("slate-")
        assert files["files"] == [f"targets/{name}-*.json"]
        if name in ports:
            target = [{"targets": [f"127.0.0.1:{ports[name]}"]}]
            (directory / "targets" / f"{name}-1.json").write_text(json.dumps(target))
    (directory / "prometheus.yml").write_text(yaml.safe_dump(told))
    return directory / "prometheus.yml"


@contextmanager
def _serving_metrics() -> Iterator[int]:
    """The port of what stands for a process with sessions: this one."""
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1")
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


async def _use_sessions(settings: Settings, directory: Path) -> None:
    """Publish by way of an outbox, open a breaker, and read."""
    READS.labels(source="primary").observe(0.01)
    async with await Outbox.open(settings, directory) as outbox:
        for number in range(20):
            await outbox.put("spark.audit.test.s", b'{"sessionId": "s", "type": "t"}', msg_id=f"t{number}")
        await outbox.flush(10)
    async with Redis(host=settings.redis_host or "", port=settings.redis_port) as client:
        breaker = Breaker(client, "test-prometheus")
        with suppress(CircuitOpenError):
            while True:
                await breaker.failed(await breaker.admit())


def _declared(port: int) -> set[str]:
    """Names of samples that a process may have, by the types that it declares."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    ends = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    return {
        name + end
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
        for end in ends.get(kind, ())
    }


def test_every_process_is_scraped_under_the_name_of_what_it_does(prometheus: Prometheus) -> None:
    up = {one["metric"]["job"] for one in prometheus.series("up == 1")}
    assert up == {"slate-ingest", "slate-rollups", "slate-sessions"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_an_expression_of_a_dashboard_gives_series(prometheus: Prometheus, target: Target) -> None:
    expression = target.json["expr"].replace("$__rate_interval", "5s")
    assert "$" not in expression
    names = set(_METRIC.findall(_STRING.sub("", expression)))
    assert names <= prometheus.declared
    found = prometheus.series(expression)
    if names <= QUIET:
        return
    assert any(value != "NaN" for one in found for _, value in one["values"])
    labels = set(re.findall(r"{{(\w+)}}", target.json["legendFormat"]))
    assert all(labels <= set(one["metric"]) for one in found)


def test_rules_ask_only_for_what_processes_tell(prometheus: Prometheus) -> None:
    asked = {name for rule in _rules() for name in _METRIC.findall(_STRING.sub("", str(rule["expr"])))}
    assert asked <= prometheus.declared


def test_rules_work_and_what_fires_is_what_happened(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(_rules())
    assert [(one["name"], one["lastError"]) for one in found if one["health"] != "ok" or "lastError" in one] == []
    states = {one["name"]: one["state"] for one in found if one.get("state", "inactive") != "inactive"}
    for waited_before_the_workers_came in ("SlateIngestLatency", "SlateErrorBudgetBurns"):
        assert states.pop(waited_before_the_workers_came, "pending") == "pending"
    assert states == {"SlateAlertsGivenUp": "firing", "SlateBreakerOpen": "pending"}
