"""A real Alertmanager takes our alerts: it groups, inhibits, silences and resolves them, and tells others."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from connectors import webhooks
from connectors.alerts import AlertStore, StateRow, Transition
from connectors.link import open_connection
from connectors.receivers import ReceiverModel
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.webhooks import Poster
from deploy.embedded import free_port
from deploy.processes import kill_tree, spawn, tail
from flows.alert_engine import Engine
from flows.alert_rules import load
from flows.alert_words import fingerprint
from tests.support.programs import need_program
from tests.support.receiver import Receiver
from tests.support.shapes import SHAPES
from tests.support.stack import connect
from tests.support.waiting import eventually

PACKAGE = "prometheus-alertmanager"
CONFIG = Path(__file__).parents[2] / "deploy" / "alertmanager.yml"
NOW_US = 1_772_000_000_000_000


class Alertmanager:
    """Alertmanager on this machine, with the project's configuration but quicker, and another receiver."""

    def __init__(self, directory: Path, told: Receiver) -> None:
        program = str(need_program("prometheus-alertmanager", PACKAGE))
        text = CONFIG.read_text()
        for slow, quick in (("group_wait: 10s", "group_wait: 300ms"), ("group_interval: 1m", "group_interval: 300ms")):
            assert slow in text
            text = text.replace(slow, quick)
        text = text.replace("http://127.0.0.1:9099/alerts", told.url)
        (directory / "am.yml").write_text(text)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = directory / "alertmanager.log"
        self._directory = directory
        self._command = [
            program,
            f"--config.file={directory}/am.yml",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--cluster.listen-address=",
        ]
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Start it, with no memory of what it was told."""
        self._starts += 1
        storage = f"--storage.path={self._directory}/data{self._starts}"
        self._process = spawn([*self._command, storage], log=self.log, environment={"PATH": "/usr/bin:/bin"})
        eventually(self._is_ready, 20, what="Alertmanager is ready")

    def kill(self) -> None:
        kill_tree(self._process)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, tail(self.log, 20)
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.HTTPError:
            return False

    def amtool(self, *arguments: str) -> str:
        """What amtool answers."""
        amtool = str(need_program("amtool", PACKAGE))
        command = [amtool, f"--alertmanager.url={self.url}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def alerts(self, *arguments: str) -> list[dict[str, Any]]:
        """The alerts that amtool lists."""
        found: list[dict[str, Any]] = json.loads(self.amtool("alert", "query", "--output=json", *arguments))
        return found


@pytest.fixture
def told() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def alertmanager(tmp_path: Path, told: Receiver) -> Iterator[Alertmanager]:
    found = Alertmanager(tmp_path, told)
    yield found
    found.kill()


def receiver_of(alertmanager: Alertmanager) -> webhooks.Receiver:
    model = ReceiverModel(name="alertmanager", type="alertmanager", env="SLATE_ALERTMANAGER_URL")
    return webhooks.Receiver(model, SecretStr(alertmanager.url), None)


def decided(rule: str, function: str, severity: str, state: str = "firing") -> Transition:
    labels = {"alertname": rule, "severity": severity, "function": function}
    return Transition(
        rule=rule,
        fingerprint=fingerprint(labels),
        state=state,
        labels=labels,
        annotations={"summary": f"{function} fails"},
        value=0.5,
        reason=f"50 % of calls failed: {state}",
        starts=NOW_US,
        ends=NOW_US + 2_000_000 if state == "resolved" else None,
    )


def queue(settings: Settings, *those: Transition) -> None:
    """Decide, as the evaluator does: outbox and states in one transaction."""
    store = AlertStore(settings, "test")
    with open_connection(settings, "test") as connection, connection.transaction():
        store.decide(connection, those, lambda labels: ["alertmanager"])
        store.forget_states(connection, [(one.rule, one.fingerprint) for one in those if one.state == "resolved"])
        store.keep_states(
            connection,
            [
                StateRow(
                    one.rule, one.fingerprint, [], one.labels, "firing", one.starts, None, None, one.starts, 1.0, 1, ""
                )
                for one in those
                if one.state == "firing"
            ],
        )


def heard(told: Receiver) -> list[tuple[str, str, str]]:
    """What Alertmanager has told the receiver, each once: rule, function, status."""
    found: dict[tuple[str, str, str], None] = {}
    for one in told.received:
        for alert in json.loads(one.body)["alerts"]:
            found[alert["labels"]["alertname"], alert["labels"].get("function", ""), alert["status"]] = None
    return list(found)


def test_alertmanager_groups_inhibits_silences_and_resolves_what_we_tell_it(
    settings: Settings, alertmanager: Alertmanager, told: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RESEND_S", 1.0)
    stopped = Shutdown()
    (thread,) = webhooks.start_couriers(settings, [receiver_of(alertmanager)], stopped)
    critical, warning = "function-errors-critical", "function-errors"
    try:
        queue(
            settings,
            decided(critical, "f", "critical"),
            decided(critical, "g", "critical"),
            decided(warning, "f", "warning"),
            decided(warning, "h", "warning"),
        )
        eventually(lambda: len(heard(told)) == 3, 20)
        assert set(heard(told)) == {(critical, "f", "firing"), (critical, "g", "firing"), (warning, "h", "firing")}
        assert max(len(json.loads(one.body)["alerts"]) for one in told.received) == 2, "of one rule in one message"
        listed = alertmanager.alerts("--inhibited")
        assert [(one["labels"]["alertname"], one["labels"]["function"]) for one in listed] == [(warning, "f")]
        (one,) = alertmanager.alerts("function=g")
        assert one["annotations"] == {"summary": "g fails", "reason": "50 % of calls failed: firing"}

        alertmanager.amtool("silence", "add", "--author=test", "--comment=known", "function=quiet")
        queue(settings, decided(critical, "quiet", "critical"), decided(critical, "loud", "critical"))
        eventually(lambda: (critical, "loud", "firing") in heard(told), 20)
        assert [one["labels"]["function"] for one in alertmanager.alerts("--silenced")] == ["quiet"]
        assert (critical, "quiet", "firing") not in heard(told)

        queue(settings, decided(critical, "f", "critical", "resolved"))
        eventually(lambda: (critical, "f", "resolved") in heard(told), 20)
        eventually(lambda: (warning, "f", "firing") in heard(told), 20, what="nothing inhibits it any more")
        assert alertmanager.alerts(f"alertname={critical}", "function=f") == []

        # An Alertmanager that has lost its memory hears of what fires, and not of what is over.
        alertmanager.kill()
        alertmanager.start()
        eventually(lambda: len(alertmanager.alerts("--active", "--inhibited", "--silenced")) == 5, 30)
        functions = {one["labels"]["function"] for one in alertmanager.alerts("--active", "--silenced", "--inhibited")}
        assert functions == {"f", "g", "h", "loud", "quiet"}
    finally:
        stopped.request()
        thread.join(15)
    with connect(settings) as connection:
        row = connection.execute("SELECT count(*) FROM slate.alert_deliveries WHERE state <> 'delivered'").fetchone()
        assert row == (0,)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5000)


def test_labels_of_every_rule_are_valid_whatever_users_call_things(alertmanager: Alertmanager) -> None:
    rules = load(Settings.load(local=False).alert_rules_file)
    engines = Engine(rules), Engine(rules, sampled=True)
    receiver = receiver_of(alertmanager)
    poster = Poster(receiver.model)

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(name=names)
    def check(name: str) -> None:
        for engine in engines:
            for watched in engine.watched:
                labels = watched.labels_of(tuple(name for _ in watched.group_by))
                told = {"labels": labels, "annotations": {"summary": name}, "startsAt": "2026-03-01T00:00:00Z"}
                request = webhooks.Request(f"{alertmanager.url}/api/v2/alerts", json.dumps([told]).encode())
                assert poster.post(request).state == "delivered", (watched.name, labels)

    try:
        check()
    finally:
        poster.close()


def test_what_alertmanager_sends_and_what_we_send_has_the_same_shape(
    settings: Settings, alertmanager: Alertmanager, told: Receiver
) -> None:
    stopped = Shutdown()
    (thread,) = webhooks.start_couriers(settings, [receiver_of(alertmanager)], stopped)
    queue(settings, decided("function-errors", "f", "warning"))
    eventually(lambda: told.received, 20)
    stopped.request()
    thread.join(15)
    body = json.loads(told.received[0].body)
    SHAPES["webhook"].validate_python(body)


def test_the_configuration_that_comes_with_the_project_is_right() -> None:
    amtool = need_program("amtool", PACKAGE)
    done = subprocess.run([amtool, "check-config", CONFIG], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
