"""A connection to the primary for transactions that are tried until they are stored."""

import random
import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
import structlog

from connectors.arrays import register
from connectors.errors import ConnectionFailedError
from connectors.faults import Fault, classify
from connectors.settings import Settings
from connectors.shutdown import Shutdown

Connection = psycopg.Connection[tuple[Any, ...]]
Statement = tuple[str, dict[str, Any]]

_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 2.0
_DRAIN_S: Final = 15.0

_log = structlog.get_logger(__name__)


def open_connection(settings: Settings, application: str) -> Connection:
    """A connection to the primary that notices a dead server within ten seconds and needs no session state.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        psycopg.OperationalError: it cannot be reached.
    """
    connection = psycopg.connect(
        **settings.dsn(  # type: ignore[arg-type]
            application_name=application,
            target_session_attrs="read-write",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        ),
        autocommit=True,
        prepare_threshold=None,
    )
    register(connection.adapters)
    return connection


class Link:
    """Opens the connection when it is needed, and again when it broke. For one thread.

    Args:
        settings: names the server.
        application: how the server knows us.
        shutdown: after it, a server that stays away is waited for 15 s only.
    """

    def __init__(self, settings: Settings, application: str, shutdown: Shutdown) -> None:
        self._settings = settings
        self._application = application
        self._shutdown = shutdown
        self._connection: Connection | None = None
        self._delay = _FIRST_DELAY_S
        self._draining_since: float | None = None

    def connection(self) -> Connection:
        """The connection, in autocommit mode."""
        if self._connection is None or self._connection.closed:
            self._connection = open_connection(self._settings, self._application)
        return self._connection

    def transact(self, statements: Sequence[Statement]) -> list[tuple[Any, ...]]:
        """Execute all in one transaction and one round trip; returns the rows of the last."""
        connection = self.connection()
        cursor, last = connection.cursor(), connection.cursor()
        timeout = str(int(self._settings.db_statement_timeout_s * 1000))
        with connection.pipeline():
            cursor.execute("BEGIN")
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (timeout,))
            for sql, parameters in statements[:-1]:
                cursor.execute(sql, parameters)
            last.execute(*statements[-1])
            cursor.execute("COMMIT")
        self._delay = _FIRST_DELAY_S
        return last.fetchall() if last.description else []

    def recover(self, error: psycopg.Error) -> Fault:
        """Leave the connection ready for the next transaction, or drop it; returns what the error means."""
        fault = classify(error)
        connection = self._connection
        if connection is None or connection.closed:
            return fault
        try:
            if isinstance(error, psycopg.OperationalError) and fault is Fault.RETRY:
                connection.close()
            else:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
        return fault

    def wait(self, error: psycopg.Error, fault: Fault) -> None:
        """Wait before the next try, longer each time.

        Raises:
            ConnectionFailedError: shutdown was requested and the server stayed away.
        """
        remedy = "run `slate migrate`, and check the role's permissions" if fault is Fault.FATAL else None
        _log.warning(
            "cannot write yet",
            error=(error.diag.message_primary or str(error)).strip(),
            sqlstate=error.sqlstate,
            remedy=remedy,
            again_in_s=round(self._delay, 2),
        )
        delay, self._delay = self._delay, min(_LONGEST_DELAY_S, self._delay * 2)
        if not self._shutdown.requested:
            self._shutdown.wait(delay * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            return
        if self._draining_since is None:
            self._draining_since = time.monotonic()
        if time.monotonic() - self._draining_since > _DRAIN_S:
            raise ConnectionFailedError(
                f"PostgreSQL stayed away for {_DRAIN_S:.0f} s while stopping; what was not written is read again "
                "at the next start"
            )
        time.sleep(delay)  # `shutdown.wait` would return at once

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
