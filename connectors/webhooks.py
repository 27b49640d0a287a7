"""Alerts to those who are to be told: Alertmanager, signed webhooks, Slack, PagerDuty.

Guarantee: at least once, in the order in which they were decided, and recognisable: an alert that is sent again,
because nobody knows whether it arrived, comes under the same `webhook-id` (PagerDuty: `dedup_key`). Each receiver has a
thread and a queue of its own (`slate.alert_deliveries`), so that one that is dead delays no other.
"""

import ipaddress
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
import psycopg
import structlog
from psycopg.rows import class_row
from pydantic import SecretStr
from standardwebhooks import Webhook

from connectors import metrics
from connectors.environment import SIGNING_KEY, is_signing_key
from connectors.errors import ConfigurationError
from connectors.link import Connection, open_connection
from connectors.receivers import ReceiverModel
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read

TIMEOUT_S: Final = 10.0
"""How long a receiver may take for each part of its answer."""
GIVE_UP_S: Final = 3 * 86_400.0
"""After so long an alert is old news."""
RESEND_S: Final = 60.0
"""How often Alertmanager hears again what fires: it forgets what it does not hear of."""
PAGERDUTY: Final = "https://events.pagerduty.com/v2/enqueue"
_LOOK_S: Final = 1.0
_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 300.0
_LONGEST_RETRY_AFTER_S: Final = 3600.0
_REDIRECTS: Final = 3
_MOST_AT_ONCE: Final = 500
_ERROR_BYTES: Final = 500

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class Alert(msgspec.Struct, frozen=True):
    """A row of the outbox for one receiver."""

    id: int
    rule: str
    fingerprint: str
    state: str
    labels: dict[str, str]
    annotations: dict[str, str]
    reason: str
    starts: datetime
    ends: datetime | None

    @property
    def message_id(self) -> str:
        """The same however often it is sent, and of no other alert."""
        return f"alert_{self.fingerprint}_{int(self.starts.timestamp())}_{self.state}"

    @property
    def severity(self) -> str:
        """info, warning or critical."""
        return self.labels.get("severity", "warning")

    @property
    def summary(self) -> str:
        """One line for people."""
        return self.annotations.get("summary") or f"{self.rule}: {self.reason}"


class Request(msgspec.Struct, frozen=True):
    """What is POSTed."""

    url: str
    body: bytes
    headers: dict[str, str] = {}


class Outcome(NamedTuple):
    """What became of a request: `state` as in `slate.alert_deliveries`, `pending` where it is to be tried again.

    `reason` is one of few: a status, a kind of error; `detail` may be in the receiver's words.
    """

    state: str
    reason: str | None = None
    detail: str = ""
    retry_after: float | None = None
    gone: bool = False


class Receiver:
    """Makes requests of alerts.

    Raises:
        ConfigurationError: its address is not usable, or its secret.
    """

    def __init__(self, model: ReceiverModel, address: SecretStr, secret: SecretStr | None) -> None:
        self.model = model
        self.name = model.name
        self._key = address.get_secret_value()
        self.url = (model.url or PAGERDUTY) if model.type == "pagerduty" else self._key
        if (problem := _url_problem(self.url, model.allow_http)) is not None:
            # nosemgrep: secret-told - the problem is in fixed words
            raise ConfigurationError(f"receiver {model.name}: {model.env} {problem}")
        keys = secret.get_secret_value().split() if secret is not None else []
        if not all(map(is_signing_key, keys)):
            raise ConfigurationError(f"receiver {model.name}: {model.secret_env} {SIGNING_KEY}; several by spaces")
        self._signers = [Webhook(key) for key in keys]
        self._make: Callable[[Alert, datetime], Request] = {
            "alertmanager": lambda alert, now: self.alertmanager([alert], now),
            "webhook": self._webhook,
            "slack": self._slack,
            "pagerduty": self._pagerduty,
        }[model.type]

    def request(self, alert: Alert, now: datetime) -> Request:
        """What tells the receiver of an alert."""
        return self._make(alert, now)

    def alertmanager(self, alerts: Sequence[Alert], now: datetime) -> Request:
        """Alertmanager's API, version 2. What fires expires there, unless it is sent again, after four periods."""
        expires = now + timedelta(seconds=4 * RESEND_S)
        told = [
            {
                "labels": alert.labels,
                "annotations": alert.annotations | {"reason": alert.reason},
                "startsAt": iso(alert.starts),
                "endsAt": iso(alert.ends or max(expires, alert.starts)),
            }
            for alert in alerts
        ]
        return Request(self.url.rstrip("/") + "/api/v2/alerts", _encode(told))

    def _webhook(self, alert: Alert, now: datetime) -> Request:
        """The body of Alertmanager's webhooks, version 4, with the headers of Standard Webhooks."""
        told = {
            "version": "4",
            "groupKey": f'{{}}:{{alertname="{alert.rule}"}}',
            "truncatedAlerts": 0,
            "status": alert.state,
            "receiver": self.name,
            "groupLabels": {"alertname": alert.rule},
            "commonLabels": alert.labels,
            "commonAnnotations": alert.annotations,
            "externalURL": "",
            "alerts": [
                {
                    "status": alert.state,
                    "labels": alert.labels,
                    "annotations": alert.annotations | {"reason": alert.reason},
                    "startsAt": iso(alert.starts),
                    "endsAt": iso(alert.ends) if alert.ends is not None else "0001-01-01T00:00:00Z",
                    "generatorURL": "",
                    "fingerprint": alert.fingerprint,
                }
            ],
        }
        body = _encode(told)
        headers = {"webhook-id": alert.message_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signers:
            signatures = [one.sign(alert.message_id, now, body.decode()) for one in self._signers]
            headers["webhook-signature"] = " ".join(signatures)
        return Request(self.url, body, headers)

    def _slack(self, alert: Alert, now: datetime) -> Request:
        """An incoming webhook of Slack: text for notifications, blocks for the channel."""
        sign = "✅ resolved" if alert.state == "resolved" else {"critical": "🔴"}.get(alert.severity, "🟠") + " firing"
        details = [f"*{_mrkdwn(name)}* {_mrkdwn(value)}" for name, value in alert.labels.items()]
        when = f"since {iso(alert.starts)}" + (f" until {iso(alert.ends)}" if alert.ends is not None else "")
        blocks: list[dict[str, Any]] = [
            {"type": "section", "text": _slack_text(f"{sign}: *{_mrkdwn(alert.summary)}*\n{_mrkdwn(alert.reason)}")},
            {"type": "context", "elements": [_slack_text(" · ".join([*details, when]))]},
        ]
        if runbook := alert.annotations.get("runbook_url"):
            blocks.append({"type": "section", "text": _slack_text(f"<{runbook}|Runbook>")})
        return Request(self.url, _encode({"text": f"{sign}: {alert.summary}"[:3000], "blocks": blocks}))

    def _pagerduty(self, alert: Alert, now: datetime) -> Request:
        """PagerDuty's Events API, version 2: an episode is an incident."""
        resolved = alert.state == "resolved"
        told: dict[str, Any] = {
            "routing_key": self._key,
            "event_action": "resolve" if resolved else "trigger",
            "dedup_key": f"{alert.fingerprint}-{int(alert.starts.timestamp())}",
            "payload": {
                "summary": alert.summary[:1024],
                "source": "spark",
                "severity": alert.severity,
                "timestamp": iso(alert.starts),
                "component": alert.rule,
                "custom_details": {"reason": alert.reason, **alert.labels},
            },
        }
        if runbook := alert.annotations.get("runbook_url"):
            told["links"] = [{"href": runbook, "text": "Runbook"}]
        return Request(self.url, _encode(told))


class Poster:
    """POSTs with TLS unless it is said otherwise, and follows no redirect into a private network.

    Args:
        model: what is allowed.
        resolve: the addresses of a host, for redirects.
    """

    def __init__(self, model: ReceiverModel, resolve: Callable[[str, int], list[str]] | None = None) -> None:
        self._model = model
        self._resolve = resolve or _addresses
        self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def post(self, request: Request) -> Outcome:
        """Send a request; never raises for what the receiver or the network does."""
        try:
            return self._post(request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Outcome("pending", type(error).__name__)

    def _post(self, request: Request) -> Outcome:
        headers = {"content-type": "application/json", "user-agent": "spark-slate", **request.headers}
        url, extensions = request.url, dict[str, Any]()
        for _ in range(_REDIRECTS + 1):
            with self._client.stream(
                "POST", url, content=request.body, headers=headers, extensions=extensions
            ) as answer:
                status, told = answer.status_code, answer.headers
                text = next(answer.iter_bytes(_ERROR_BYTES), b"")[:_ERROR_BYTES].decode("utf-8", "replace")
            if status not in (307, 308) or "location" not in told:
                return _outcome(status, text, told.get("retry-after"))
            target = str(httpx.URL(url).join(told["location"]))
            if (problem := _url_problem(target, self._model.allow_http)) is not None:
                return Outcome("refused", "redirect", f"to an address that {problem}")
            checked = self._checked(target)
            if isinstance(checked, Outcome):
                return checked
            url, headers["host"], extensions = checked
        return Outcome("refused", "redirect", "too many of them")

    def _checked(self, target: str) -> tuple[str, str, dict[str, Any]] | Outcome:
        """A redirect's target with the address that was checked in the place of its name: no second look-up."""
        parts = httpx.URL(target)
        addresses = self._resolve(parts.host, parts.port or (443 if parts.scheme == "https" else 80))
        if not self._model.allow_private_redirects:
            for one in addresses:
                if not ipaddress.ip_address(one).is_global:
                    return Outcome("refused", "redirect", f"to {parts.host}, an address of a private network")
        host = parts.host if parts.port is None else f"{parts.host}:{parts.port}"
        return str(parts.copy_with(host=addresses[0])), host, {"sni_hostname": parts.host}


class Courier:
    """Delivers the queue of one receiver.

    Args:
        settings: names the database.
        receiver: whom to tell.
        stopped: ends it.
    """

    def __init__(self, settings: Settings, receiver: Receiver, stopped: Shutdown) -> None:
        self._settings = settings
        self._receiver = receiver
        self._key = {"receiver": receiver.name}
        self._stopped = stopped
        self._delay = _FIRST_DELAY_S
        self._gone = False
        self._resent = float("-inf")

    def run(self) -> None:
        """Deliver, look again, wait where the receiver or the database is in trouble."""
        poster = Poster(self._receiver.model)
        connection: Connection | None = None
        pause = 0.0
        try:
            while not self._gone and not self._stopped.wait(pause):
                try:
                    if connection is None or connection.closed:
                        connection = open_connection(self._settings, f"slate-alerts-{self._receiver.name}"[:63])
                    pause = self.deliver(connection, poster)
                except psycopg.Error as error:
                    _log.warning("cannot see which alerts are to be told", error=str(error).strip())
                    pause = 2 * _LOOK_S
                    if connection is not None:
                        connection.close()
                except Exception:  # noqa: BLE001 - the next look may do better, and others must be told
                    _log.exception("a courier failed: this is a fault of the program", receiver=self._receiver.name)
                    pause = _LONGEST_DELAY_S
        finally:
            poster.close()
            if connection is not None:
                connection.close()

    def deliver(self, connection: Connection, poster: Poster) -> float:
        """Tell the receiver of the next alert; returns the seconds until the next look.

        The transaction keeps other workers from telling it at the same time. It has no snapshot while it waits for the
        receiver.
        """
        with connection.transaction():
            if not (connection.execute(read("alerts/try_lock.sql"), self._key).fetchone() or [False])[0]:
                return _LOOK_S
            connection.execute(read("alerts/silence_over.sql"), self._key)
            cursor = connection.cursor(row_factory=class_row(Alert))
            alert = cursor.execute(read("alerts/next_delivery.sql"), self._key).fetchone()
            pending = connection.execute(read("alerts/pending.sql"), self._key).fetchone()
            metrics.ALERT_PENDING.labels(receiver=self._receiver.name).set(pending[0] if pending is not None else 0)
            if alert is None:
                return self._resend(connection, poster)
            outcome = poster.post(self._receiver.request(alert, datetime.now(UTC)))
            connection.execute(
                read("alerts/delivered.sql"),
                self._key | {"alert": alert.id, "state": outcome.state, "error": _in_words(outcome)},
            )
            if outcome.state == "pending":
                given_up = connection.execute(read("alerts/give_up.sql"), self._key | {"after_s": GIVE_UP_S}).rowcount
                return self._failed(alert, outcome, given_up)
        self._delay = _FIRST_DELAY_S
        metrics.ALERT_DELIVERIES.labels(receiver=self._receiver.name, state=outcome.state).inc()
        if outcome.state == "refused":
            _log.error(
                "a receiver refused an alert", receiver=self._receiver.name, rule=alert.rule, why=_in_words(outcome)
            )
        return 0.0

    def _failed(self, alert: Alert, outcome: Outcome, given_up: int) -> float:
        name = self._receiver.name
        metrics.ALERT_FAILURES.labels(receiver=name, reason=outcome.reason or "").inc()
        if given_up:
            metrics.ALERT_DELIVERIES.labels(receiver=name, state="given up").inc(given_up)
            _log.error("alerts are given up: the receiver did not take them for three days", receiver=name, n=given_up)
        if outcome.gone:
            self._gone = True
            _log.error("a receiver wants no more (410): it is told nothing until the next start", receiver=name)
        delay, self._delay = self._delay, min(_LONGEST_DELAY_S, self._delay * 2)
        pause = outcome.retry_after or delay * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        _log.warning(
            "an alert was not taken; it is sent again",
            receiver=name,
            rule=alert.rule,
            answer=_in_words(outcome),
            again_in_s=round(pause, 1),
        )
        return pause

    def _resend(self, connection: Connection, poster: Poster) -> float:
        """Tell Alertmanager again what it must hear again."""
        if self._receiver.model.type != "alertmanager" or time.monotonic() - self._resent < RESEND_S:
            return _LOOK_S
        self._resent = time.monotonic()
        cursor = connection.cursor(row_factory=class_row(Alert))
        alerts = cursor.execute(read("alerts/resend.sql"), self._key).fetchall()
        for begin in range(0, len(alerts), _MOST_AT_ONCE):
            part = alerts[begin : begin + _MOST_AT_ONCE]
            outcome = poster.post(self._receiver.alertmanager(part, datetime.now(UTC)))
            if outcome.state != "delivered":
                _log.warning("alerts could not be sent again", receiver=self._receiver.name, answer=_in_words(outcome))
                self._resent = time.monotonic() - RESEND_S + min(self._delay, RESEND_S / 4)
        return _LOOK_S


def usable(settings: Settings, models: Sequence[ReceiverModel]) -> list[Receiver]:
    """The receivers whose variables are set.

    Raises:
        ConfigurationError: one of them is not usable.
    """
    found = []
    for model in models:
        address = settings.secret(model.env)
        if address is not None:
            secret = settings.secret(model.secret_env) if model.secret_env is not None else None
            found.append(Receiver(model, address, secret))
    return found


def start_couriers(settings: Settings, receivers: Sequence[Receiver], shutdown: Shutdown) -> list[threading.Thread]:
    """Deliver from now on, each receiver on a thread of its own, until shutdown is requested."""
    threads = []
    for receiver in receivers:
        courier = Courier(settings, receiver, shutdown)
        threads.append(threading.Thread(target=courier.run, name=f"courier-{receiver.name}", daemon=True))
        threads[-1].start()
    return threads


def _outcome(status: int, text: str, retry_after: str | None) -> Outcome:
    if 200 <= status < 300:
        return Outcome("delivered")
    if status == httpx.codes.GONE:
        return Outcome("pending", str(status), text, gone=True)
    if status >= 500 or status in (408, 425, 429):
        return Outcome("pending", str(status), text, seconds_of(retry_after, _LONGEST_RETRY_AFTER_S))
    return Outcome("refused", str(status), text)


def _in_words(outcome: Outcome) -> str | None:
    """What went wrong, as PostgreSQL can keep it."""
    return None if outcome.reason is None else f"{outcome.reason} {outcome.detail}".strip().replace("\0", "")


def seconds_of(retry_after: str | None, most: float) -> float | None:
    """Seconds to wait according to a Retry-After header (RFC 9110, 10.2.3): seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), most)
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), most)


def _url_problem(url: str, allow_http: bool) -> str | None:
    """What is wrong with an address, without the address: it may hold credentials."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address"
    if host is None or parts.scheme not in ("http", "https"):
        return "must be https://host/path"
    if parts.scheme == "http" and not allow_http and host not in ("localhost", "127.0.0.1", "::1"):
        return "must be https:// except on this machine; `allow_http = true` in the rules file allows it"
    return None


def _addresses(host: str, port: int) -> list[str]:
    return [str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _slack_text(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text[:3000]}


def _mrkdwn(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def iso(moment: datetime) -> str:
    """A moment in ISO 8601, UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
