"""Looks at workers and database once a second, in a thread, so that a slow answer freezes no view."""

import threading
import time
from collections.abc import Sequence

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row, dict_row

from connectors.settings import Settings
from connectors.sql import read
from deploy.figures import Collector, Counts, Figures, Firing, Minute, Today, scrape

INTERVAL_S = 1.0
MINUTES = 30
"""Minutes of event time in the charts."""
_COUNT_SHARE = 0.02
"""Counting may take this share of one core: the larger the tables, the rarer, with metrics in between."""


class Sampler:
    """Keeps `latest` up to date while its context lasts.

    Args:
        settings: where the database is.
        metrics_ports: of the ingest workers, on this machine.
    """

    def __init__(self, settings: Settings, metrics_ports: Sequence[int]) -> None:
        self.latest = Figures()
        self._settings = settings
        self._ports = metrics_ports
        self._collector = Collector()
        self._next_count = 0.0
        self._connection: psycopg.Connection | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(2 * INTERVAL_S)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            self._sample()
            if self._done.wait(max(0.0, INTERVAL_S - (time.monotonic() - began))):
                break
        self._disconnect()

    def _sample(self) -> None:
        problem = ""
        began = time.monotonic()
        if began >= self._next_count:
            try:
                self._collector.counted(self._count())
                self._next_count = began + (time.monotonic() - began) / _COUNT_SHARE
            except psycopg.Error as error:
                self._disconnect()
                problem = f"PostgreSQL cannot be read: {str(error).splitlines()[0]}"
        scrapes = {port: scrape(port) for port in self._ports}
        silent = [str(port) for port, one in scrapes.items() if one is None]
        if silent:
            problem = problem or f"no metrics on port {', '.join(silent)}"
        self.latest = self._collector.update(time.monotonic(), time.time(), scrapes, problem)

    def _count(self) -> Counts:
        if self._connection is None:
            dsn = self._settings.dsn(connect_timeout=3, application_name="slate up", options="-c statement_timeout=10s")
            self._connection = psycopg.connect(make_conninfo("", **dsn), autocommit=True)
        with self._connection.cursor(row_factory=dict_row) as cursor:
            rows = next(cursor.execute(read("live/rows.sql").encode()))
        dead_letters = self._connection.execute(read("live/dead_letters.sql").encode()).fetchall()
        with self._connection.cursor(row_factory=class_row(Today)) as cursor:
            today = cursor.execute(read("live/today.sql").encode(), {"stream": self._settings.stream}).fetchone()
        with self._connection.cursor(row_factory=class_row(Minute)) as cursor:
            minutes = cursor.execute(read("live/minutes.sql").encode(), {"minutes": MINUTES - 1}).fetchall()
        with self._connection.cursor(row_factory=class_row(Firing)) as cursor:
            firing = cursor.execute(read("live/alerts.sql").encode()).fetchall()
        return Counts(rows, dict(dead_letters), today, minutes, firing)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
