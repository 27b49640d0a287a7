"""Alerts reach each receiver in order and recognisably, whatever it answers, and none is in another's way."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from connectors import webhooks
from connectors.alerts import AlertStore, Transition
from connectors.link import open_connection
from connectors.receivers import ReceiverModel
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.webhooks import Alert, Courier, Poster, Request
from flows.alert_words import fingerprint
from tests.support.receiver import Answer, Receiver
from tests.support.shapes import SHAPES
from tests.support.stack import connect
from tests.support.waiting import eventually

OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
KEY = "0123456789abcdef0123456789abcdef"
START = 1_772_000_000_000_000
OK = Answer(200)


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def decided(number: int, state: str = "firing", **labels: str) -> Transition:
    """The beginning or the end of episode `number`."""
    has = {"alertname": "r", "severity": "critical", "number": str(number), **labels}
    return Transition(
        rule="r",
        fingerprint=fingerprint(has),
        state=state,
        labels=has,
        annotations={"summary": f"number {number}"},
        value=0.5,
        reason="because",
        starts=START + number * 2_000_000,
        ends=START + number * 2_000_000 + 60_000_000 if state == "resolved" else None,
    )


def queue(settings: Settings, those: list[Transition], *receivers: str) -> None:
    """Put transitions in the outbox, as the evaluator does."""
    with open_connection(settings, "test") as connection, connection.transaction():
        AlertStore(settings, "test").decide(connection, those, lambda labels: receivers)


def states(database: psycopg.Connection, receiver: str = "w") -> list[str]:
    rows = database.execute(
        "SELECT state FROM slate.alert_deliveries WHERE receiver = %s ORDER BY alert", (receiver,)
    ).fetchall()
    return [state for (state,) in rows]


def receiver_of(kind: str, address: str, secret: str | None = None, **more: Any) -> webhooks.Receiver:
    model = ReceiverModel(name=more.pop("name", "w"), type=kind, env="W", **more)  # type: ignore[arg-type]
    return webhooks.Receiver(model, SecretStr(address), SecretStr(secret) if secret else None)


@contextmanager
def delivering(settings: Settings, *receivers: webhooks.Receiver) -> Iterator[list[threading.Thread]]:
    shutdown = Shutdown()
    threads = webhooks.start_couriers(settings, receivers, shutdown)
    try:
        yield threads
    finally:
        shutdown.request()
        for thread in threads:
            thread.join(15)
        assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers that hang are let go, and those that fail asked again, sooner than in life."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(webhooks, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(webhooks, "_LONGEST_DELAY_S", 0.2)


def alert(**more: Any) -> Alert:
    told: dict[str, Any] = {
        "id": 1,
        "rule": "function-errors",
        "fingerprint": "0123456789abcdef",
        "state": "firing",
        "labels": {"alertname": "function-errors", "severity": "critical", "function": "f"},
        "annotations": {"summary": "f: 12 % failed", "runbook_url": "https://example.com/run"},
        "reason": "12 % is above 5 %",
        "starts": datetime(2026, 3, 1, tzinfo=UTC),
        "ends": None,
    }
    return Alert(**(told | more))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4000)
values = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@pytest.mark.parametrize("kind", ["webhook", "slack", "pagerduty"])
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(summary=texts, reason=texts, value=values, over=st.booleans(), severity=st.sampled_from(["info", "critical"]))
def test_payloads_have_the_published_shape_whatever_users_call_their_functions(
    kind: str, summary: str, reason: str, value: str, over: bool, severity: str
) -> None:
    told = alert(
        labels={"alertname": "r", "severity": severity, "function": value},
        annotations={"summary": summary},
        reason=reason,
        state="resolved" if over else "firing",
        ends=datetime(2026, 3, 1, 1, tzinfo=UTC) if over else None,
    )
    address = KEY if kind == "pagerduty" else "https://example.com/hook"
    request = receiver_of(kind, address).request(told, datetime.now(UTC))
    SHAPES[kind].validate_json(request.body)


def test_a_pagerduty_incident_is_an_episode() -> None:
    receiver = receiver_of("pagerduty", KEY)
    began, ended = (
        json.loads(receiver.request(one, datetime.now(UTC)).body)
        for one in (alert(), alert(state="resolved", ends=datetime(2026, 3, 1, 1, tzinfo=UTC)))
    )
    assert (began["event_action"], ended["event_action"]) == ("trigger", "resolve")
    assert began["dedup_key"] == ended["dedup_key"]
    later = json.loads(receiver.request(alert(starts=datetime(2026, 3, 2, tzinfo=UTC)), datetime.now(UTC)).body)
    assert later["dedup_key"] != began["dedup_key"]
    assert receiver.url == webhooks.PAGERDUTY


def test_slack_shows_names_as_text_and_not_as_its_markup() -> None:
    told = alert(labels={"alertname": "r", "function": "<!channel> & <https://evil.example|x>"})
    body = receiver_of("slack", "https://hooks.slack.com/x").request(told, datetime.now(UTC)).body.decode()
    assert "<!channel>" not in body
    assert "&lt;!channel&gt; &amp; &lt;https" in body


def test_a_signature_verifies_with_each_secret_while_it_is_rotated(settings: Settings) -> None:
    queue(settings, [decided(1)], "w")
    with Receiver() as receiver, delivering(settings, receiver_of("webhook", receiver.url, f"{NEW} {OLD}")):
        eventually(lambda: receiver.received)
    (one,) = receiver.received
    for secret in (OLD, NEW):
        Webhook(secret).verify(one.body, one.headers)
    with pytest.raises(Exception, match="signature"):
        Webhook(OLD).verify(one.body + b" ", one.headers)
    assert one.headers["content-type"] == "application/json"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "trouble",
    [
        [Answer(500)] * 3,
        [Answer(429, {"retry-after": "1"})],
        [Answer(None)] * 2,
        [Answer(503), Answer(None), Answer(408)],
    ],
    ids=["500", "429", "hangs", "all"],
)
def test_a_receiver_in_trouble_hears_each_alert_in_order_and_under_one_id(
    settings: Settings, database: psycopg.Connection, trouble: list[Answer]
) -> None:
    those = [decided(1), decided(2), decided(1, "resolved"), decided(3), decided(2, "resolved")]
    queue(settings, those, "w")
    with Receiver(*trouble, OK) as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["delivered"] * 5, 20)
        ids = [f"alert_{one.fingerprint}_{one.starts // 1_000_000}_{one.state}" for one in those]
        assert receiver.taken == ids
        assert [one.id for one in receiver.received] == [ids[0]] * len(trouble) + ids
        if trouble[0].status == 429:
            assert receiver.received[1].at - receiver.received[0].at >= 1


def test_a_receiver_that_is_gone_is_left_alone_until_the_next_start(
    settings: Settings, database: psycopg.Connection
) -> None:
    queue(settings, [decided(1), decided(2)], "w")
    with Receiver(Answer(410), OK) as receiver:
        with capture_logs() as logs, delivering(settings, receiver_of("webhook", receiver.url)) as (thread,):
            thread.join(10)
            assert not thread.is_alive()
            assert len(receiver.received) == 1
            assert states(database) == ["pending"] * 2
        assert any("410" in str(one["event"]) for one in logs)
        with delivering(settings, receiver_of("webhook", receiver.url)):
            eventually(lambda: states(database) == ["delivered"] * 2)


def test_what_a_receiver_refuses_is_kept_with_its_words_and_stops_nothing(
    settings: Settings, database: psycopg.Connection
) -> None:
    queue(settings, [decided(1), decided(2)], "w")
    with Receiver(Answer(400), OK) as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["refused", "delivered"])
    row = database.execute("SELECT error, attempts FROM slate.alert_deliveries WHERE state = 'refused'").fetchone()
    assert row == ("400", 1)


def test_what_a_receiver_says_is_kept_as_far_as_it_can_be_and_in_no_metric(
    settings: Settings, database: psycopg.Connection
) -> None:
    queue(settings, [decided(1), decided(2)], "w")
    said = Answer(422, body=b"no\0 \xff" + b"x" * 9000)
    with Receiver(said, OK) as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["refused", "delivered"])
    row = database.execute("SELECT error FROM slate.alert_deliveries WHERE state = 'refused'").fetchone()
    assert row is not None
    assert row[0].startswith("422 no \ufffdxxx")
    assert len(row[0]) < 600


@pytest.mark.usefixtures("quick")
def test_metrics_count_what_waits_and_name_reasons_of_few_kinds(
    settings: Settings, database: psycopg.Connection
) -> None:
    def metric(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"receiver": "metered", **labels}) or 0.0

    queue(settings, [decided(number) for number in range(3)], "metered")
    answers = Answer(503, body=b"try later, dear w"), Answer(None), OK
    with Receiver(*answers) as receiver, delivering(settings, receiver_of("webhook", receiver.url, name="metered")):
        eventually(lambda: metric("spark_alert_delivery_failures_total", reason="503") == 1)
        assert metric("spark_alert_pending_deliveries") == 3
        eventually(lambda: states(database, "metered") == ["delivered"] * 3)
        eventually(lambda: metric("spark_alert_pending_deliveries") == 0)
    assert metric("spark_alert_deliveries_total", state="delivered") == 3
    assert metric("spark_alert_delivery_failures_total", reason="ReadTimeout") == 1


@pytest.mark.usefixtures("quick")
def test_a_courier_survives_what_nobody_thought_of(
    settings: Settings, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, times = Poster.post, iter([True])

    def failing(poster: Poster, request: Request) -> webhooks.Outcome:
        if next(times, False):
            raise RuntimeError("nobody thought of it")
        return post(poster, request)

    monkeypatch.setattr(Poster, "post", failing)
    queue(settings, [decided(1)], "w")
    with Receiver() as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["delivered"])


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_is_dead_delays_no_other(settings: Settings, database: psycopg.Connection) -> None:
    queue(settings, [decided(number) for number in range(20)], "dead", "hangs", "w")
    with Receiver(Answer(None)) as hangs, Receiver() as well:
        dead = receiver_of("webhook", "http://127.0.0.1:9/", name="dead")
        slow = receiver_of("webhook", hangs.url, name="hangs")
        with delivering(settings, dead, slow, receiver_of("webhook", well.url)):
            eventually(lambda: states(database) == ["delivered"] * 20)
            assert states(database, "dead") == states(database, "hangs") == ["pending"] * 20


@pytest.mark.usefixtures("quick")
def test_after_three_days_an_alert_is_given_up_and_that_can_be_seen(
    settings: Settings, database: psycopg.Connection
) -> None:
    queue(settings, [decided(1), decided(2)], "w")
    database.execute("UPDATE slate.alerts SET created_at = now() - interval '73 hours' WHERE labels ->> 'number' = '1'")
    with capture_logs() as logs, delivering(settings, receiver_of("webhook", "http://127.0.0.1:9/")):
        eventually(lambda: states(database) == ["given up", "pending"])
    assert any("given up" in str(one["event"]) for one in logs)
    row = database.execute("SELECT error FROM slate.alert_deliveries WHERE state = 'given up'").fetchone()
    assert row == ("ConnectError",)


def silence(database: psycopg.Connection, length: str = "1 hour", **labels: str) -> None:
    database.execute(
        "INSERT INTO slate.alert_silences (matchers, until, author, comment)"
        " VALUES (%s, now() + %s::interval, 'a', 'c')",
        (json.dumps(labels), length),
    )


def test_a_silence_holds_beginnings_back_and_lets_through_the_ends_of_what_was_told(
    settings: Settings, database: psycopg.Connection
) -> None:
    queue(settings, [decided(1)], "w")
    with Receiver() as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["delivered"])
        silence(database, alertname="r")
        queue(settings, [decided(2), decided(3), decided(2, "resolved"), decided(1, "resolved")], "w")
        eventually(lambda: states(database) == ["delivered", "silenced", "pending", "silenced", "delivered"])
        database.execute("UPDATE slate.alert_silences SET until = now()")
        eventually(lambda: states(database)[2] == "delivered")
        kinds = [one.rpartition("_")[2] for one in receiver.taken]
        assert kinds == ["firing", "resolved", "firing"]


def test_a_silence_of_other_labels_holds_nothing_back(settings: Settings, database: psycopg.Connection) -> None:
    silence(database, alertname="r", number="7")
    queue(settings, [decided(1)], "w")
    with Receiver() as receiver, delivering(settings, receiver_of("webhook", receiver.url)):
        eventually(lambda: states(database) == ["delivered"])


def test_workers_share_the_work_and_each_alert_is_told_once(settings: Settings, database: psycopg.Connection) -> None:
    queue(settings, [decided(number) for number in range(60)], "w")
    with Receiver() as receiver:
        those = [receiver_of("webhook", receiver.url) for _ in range(4)]
        with delivering(settings, *those):
            eventually(lambda: states(database) == ["delivered"] * 60, 30)
        assert len(receiver.received) == 60
        numbers = [json.loads(one.body)["alerts"][0]["labels"]["number"] for one in receiver.received]
        assert numbers == [str(number) for number in range(60)]


def test_credentials_are_in_no_log(settings: Settings, database: psycopg.Connection) -> None:
    queue(settings, [decided(1)], "w")
    with (
        Receiver(Answer(500), OK) as receiver,
        capture_logs() as logs,
        delivering(settings, receiver_of("webhook", receiver.url, OLD)),
    ):
        eventually(lambda: states(database) == ["delivered"])
    assert logs
    assert "hunter2" not in str(logs)
    assert OLD not in str(logs)


def post(url: str, resolved: list[str], **more: Any) -> webhooks.Outcome:
    poster = Poster(receiver_of("webhook", url, **more).model, lambda host, port: resolved)
    try:
        return poster.post(Request(url, b"{}"))
    finally:
        poster.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "::1", "fd00::1"])
def test_no_redirect_is_followed_into_a_private_network(address: str) -> None:
    with Receiver(Answer(307, {"location": "https://metadata.example/"})) as receiver:
        outcome = post(receiver.url, [address])
        assert outcome.state == "refused"
        assert "private network" in outcome.detail


def test_a_redirect_is_followed_where_it_is_allowed_to_the_address_that_was_checked() -> None:
    with Receiver() as target:
        port = target.url.rpartition(":")[2]
        with Receiver(Answer(308, {"location": f"http://name.example:{port}"})) as receiver:
            assert post(receiver.url, ["127.0.0.1"], allow_http=True).state == "refused"
            allowed = {"allow_http": True, "allow_private_redirects": True}
            assert post(receiver.url, ["127.0.0.1"], **allowed).state == "delivered"
        (one,) = target.received
        assert one.headers["host"] == f"name.example:{port.partition('/')[0]}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(307, {"location": "http://example.com/"}), "must be https"),
        (Answer(302, {"location": "https://example.com/"}), "302"),
    ],
)
def test_other_redirects_are_refused(answer: Answer, error: str) -> None:
    with Receiver(answer) as receiver:
        outcome = post(receiver.url, ["93.184.215.14"])
        assert outcome.state == "refused"
        assert error in f"{outcome.reason} {outcome.detail}"


def test_a_receiver_that_sends_itself_in_circles_is_refused() -> None:
    with Receiver() as receiver:
        receiver.then(Answer(307, {"location": receiver.url}))
        outcome = post(receiver.url, ["127.0.0.1"], allow_private_redirects=True)
        assert outcome == webhooks.Outcome("refused", "redirect", "too many of them")


def test_a_courier_waits_for_a_database_that_is_away(settings: Settings) -> None:
    away = settings.model_copy(update={"db_port": 9})
    shutdown = Shutdown()
    courier = Courier(away, receiver_of("webhook", "http://127.0.0.1:9/"), shutdown)
    thread = threading.Thread(target=courier.run)
    with capture_logs() as logs:
        thread.start()
        eventually(lambda: logs)
        shutdown.request()
        thread.join(10)
    assert not thread.is_alive()
    assert "cannot see" in logs[0]["event"]
