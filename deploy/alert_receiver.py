"""The receiver of alerts that `slate up` starts where none is set: it checks signatures and shows what comes."""

import base64
import secrets
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

import msgspec
from standardwebhooks import Webhook

from deploy.terminal import harmless

_MOST_BYTES: Final = 1 << 20


class _Told(msgspec.Struct):
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class _Body(msgspec.Struct):
    alerts: list[_Told]


class AlertReceiver:
    """Listens on a free port of this machine while its context lasts; `take()` gives what came, in words."""

    def __init__(self) -> None:
        self.secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        self._came: deque[str] = deque(maxlen=100)
        self._seen: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("content-length", 0)), _MOST_BYTES)
                self.send_response(receiver._take(dict(self.headers.items()), self.rfile.read(length)))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Be silent: the view shows it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}/alerts"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self) -> list[str]:
        """What came since the last time."""
        came = []
        while self._came:
            came.append(self._came.popleft())
        return came

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        """Check a request; returns the status to answer with."""
        try:
            Webhook(self.secret).verify(body.decode(), {name.lower(): value for name, value in headers.items()})
            told = msgspec.json.decode(body, type=_Body)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not ours
            return 401
        identity = headers.get("webhook-id", "")
        if identity not in self._seen:
            self._seen.add(identity)
            for alert in told.alerts:
                if alert.labels.get("severity") != "info":
                    summary = alert.annotations.get("summary", alert.labels.get("alertname", ""))
                    self._came.append(harmless(f"alert {alert.status}: {summary}"))
        return 204
