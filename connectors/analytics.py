"""Closed windows for those who analyse them: POSTed to `SLATE_ANALYTICS_URL` as JSON, beside the dataflow.

Guarantee: at least once. A window is marked when the receiver has answered 2xx, so a kill in between sends it again
under the same `webhook-id`. One to which something late was added comes again with a higher `revision`. Headers are
those of Standard Webhooks (https://www.standardwebhooks.com), signed where `SLATE_ANALYTICS_SECRET` is set.
"""

import hashlib
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import psycopg
import structlog
from psycopg.rows import class_row
from standardwebhooks import Webhook

from connectors import metrics
from connectors.arrays import INTEGER, LABEL, TIMESTAMP
from connectors.link import Connection, open_connection
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sql import read
from connectors.webhooks import iso, seconds_of

MOST: Final = 500
"""Windows in one request."""
TIMEOUT_S: Final = 10.0
"""How long a request may take."""
_LOOK_S: Final = 2.0
_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 60.0
_LONGEST_RETRY_AFTER_S: Final = 300.0

_log = structlog.get_logger(__name__)


class ClosedWindow(msgspec.Struct, frozen=True):
    """A row of `slate.windows` that is to be sent."""

    start: datetime
    seconds: int
    signal: str
    key: str
    status: str
    count: int
    tokens_prompt: int
    tokens_completion: int
    cost: Decimal
    late: int
    revision: int
    closed_at: datetime
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @property
    def id(self) -> str:
        """The same whenever this window is sent: signal, length, start, key and status."""
        parts = (self.signal, str(self.seconds), iso(self.start), self.key, self.status)
        return "/".join(quote(part, safe=":") for part in parts)

    def fields(self) -> dict[str, Any]:
        """The window as JSON: times in ISO 8601 (UTC), money in US dollars with all its digits, durations in ms."""
        told = {
            "id": self.id,
            "revision": self.revision,
            "signal": self.signal,
            "start": iso(self.start),
            "end": iso(self.start + timedelta(seconds=self.seconds)),
            "seconds": self.seconds,
            "key": self.key,
            "status": self.status,
            "count": self.count,
            "tokensPrompt": self.tokens_prompt,
            "tokensCompletion": self.tokens_completion,
            "cost": self.cost,
            "late": self.late,
            "closedAt": iso(self.closed_at),
        }
        durations = {"p50Ms": self.p50_ms, "p95Ms": self.p95_ms, "p99Ms": self.p99_ms}
        return told | {name: round(ms, 3) for name, ms in durations.items() if ms is not None}


_encode = msgspec.json.Encoder(decimal_format="number").encode


def send_windows(settings: Settings, shutdown: Shutdown) -> None:
    """Send closed windows from now on, on a thread of its own, if `SLATE_ANALYTICS_URL` is set."""
    if settings.analytics_url is not None:
        sender = Sender(settings, settings.analytics_url.get_secret_value(), shutdown)
        threading.Thread(target=sender.run, name="analytics", daemon=True).start()


class Sender:
    """Sends what is due, until shutdown is requested or the receiver says that it is gone (410).

    Args:
        settings: names the database and the secret.
        url: where to; credentials in it are sent and never logged.
        shutdown: ends it.
    """

    def __init__(self, settings: Settings, url: str, shutdown: Shutdown) -> None:
        secret = settings.analytics_secret
        self._settings = settings
        self._url = httpx.URL(url)
        self._signer = Webhook(secret.get_secret_value()) if secret is not None else None
        self._shutdown = shutdown
        self._delay = _FIRST_DELAY_S
        self._gone = False

    def run(self) -> None:
        """Look for windows, send them, wait."""
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client:
            pause = 0.0
            while not self._gone and not self._shutdown.wait(pause):
                try:
                    with open_connection(self._settings, "slate-analytics") as connection:
                        pause = self._send_all(connection, client)
                except psycopg.Error as error:
                    _log.warning("cannot see which windows are to be sent", error=str(error).strip())
                    pause = _LOOK_S

    def _send_all(self, connection: Connection, client: httpx.Client) -> float:
        """Send until nothing is left or the receiver is in trouble; returns the seconds until the next try."""
        while not self._shutdown.requested:
            # The lock keeps a second worker from sending the same at the same time. The transaction has no snapshot
            # while it waits for the receiver, which is TIMEOUT_S at most.
            with connection.transaction():
                if not (connection.execute(read("analytics/try_lock.sql")).fetchone() or [False])[0]:
                    return _LOOK_S
                cursor = connection.cursor(row_factory=class_row(ClosedWindow))
                windows = cursor.execute(read("analytics/to_send.sql"), {"most": MOST}).fetchall()
                metrics.ANALYTICS_PENDING.set(len(windows))
                if not windows:
                    return _LOOK_S
                pause = self._post(client, windows)
                if pause is not None:
                    return pause
                connection.execute(read("analytics/sent.sql"), _keys(windows))
            metrics.ANALYTICS_SENT.inc(len(windows))
        return 0.0

    def _post(self, client: httpx.Client, windows: Sequence[ClosedWindow]) -> float | None:
        """Send one batch; None when it has arrived, else the seconds to wait before the next try."""
        body = _encode({"windows": [window.fields() for window in windows]})
        try:
            answer = client.post(self._url, content=body, headers=self._headers(windows, body))
        except httpx.HTTPError as error:
            return self._failed(type(error).__name__, None)
        if answer.is_success:
            self._delay = _FIRST_DELAY_S
            return None
        if answer.status_code == httpx.codes.GONE:
            self._gone = True
            _log.error("the receiver of windows wants no more (410): nothing is sent until the next start")
        return self._failed(str(answer.status_code), answer.headers.get("retry-after"))

    def _headers(self, windows: Sequence[ClosedWindow], body: bytes) -> dict[str, str]:
        names = "\n".join(f"{window.id} {window.revision}" for window in windows)
        message_id = f"windows_{hashlib.blake2b(names.encode(), digest_size=16).hexdigest()}"
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "spark-slate",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(message_id, now, body.decode())
        return headers

    def _failed(self, reason: str, retry_after: str | None) -> float:
        metrics.ANALYTICS_FAILURES.labels(reason=reason).inc()
        told = seconds_of(retry_after, _LONGEST_RETRY_AFTER_S)
        lasting = reason.isdigit() and reason[0] == "4" and reason not in ("408", "429")
        delay = _LONGEST_DELAY_S if lasting else self._delay
        self._delay = min(_LONGEST_DELAY_S, self._delay * 2)
        _log.warning(
            "windows were not taken; nothing is lost, they are sent again",
            receiver=self._url.host,
            answer=reason,
            again_in_s=round(told or delay, 1),
            remedy="check SLATE_ANALYTICS_URL and SLATE_ANALYTICS_SECRET" if lasting else None,
        )
        return told or delay * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


def _keys(windows: Sequence[ClosedWindow]) -> dict[str, Any]:
    return {
        "start": TIMESTAMP.array([round(window.start.timestamp()) * 1_000_000 for window in windows]),
        "seconds": INTEGER.array([window.seconds for window in windows]),
        "signal": LABEL.array([window.signal for window in windows]),
        "key": LABEL.array([window.key for window in windows]),
        "status": LABEL.array([window.status for window in windows]),
        "revision": INTEGER.array([window.revision for window in windows]),
    }
