"""A connection to the primary for transactions that are tried until they are stored."""

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
import structlog

from connectors import metrics
from connectors.arrays import register
from connectors.errors import ConnectionFailedError
from connectors.faults import Fault, classify
from connectors.health import HEALTH, PATIENCE
from connectors.settings import Settings
from connectors.shutdown import Shutdown

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
Statement = tuple[str, dict[str, Any]]

_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 2.0
_DRAIN_S: Final = 15.0
_WAIT_INTERVAL_S: Final = 0.1
_LOCAL: Final = (
    "SELECT set_config('statement_timeout', %s, true), set_config('tcp_user_timeout', '20s', true),"
    " set_config('tcp_keepalives_idle', '5', true), set_config('tcp_keepalives_interval', '5', true),"
    " extract(epoch FROM clock_timestamp())::double precision"
)

_log = structlog.get_logger(__name__)


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Waits for an answer for so long only: a server that is frozen, or whose machine is, closes nothing."""

    patience_s: float | None = None

    def wait(self, gen: "PQGen[T]", interval: float = _WAIT_INTERVAL_S, timeout: float | None = None) -> T:
        """As the library has it."""
        return super().wait(gen, interval, self.patience_s if timeout is None else timeout)


def open_connection(settings: Settings, application: str, *, patience: bool = True) -> Connection:
    """A connection to the primary that notices a dead server within ten seconds and needs no session state.

    Without `patience` it does not wait for any answer longer than three statements may take, either.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        psycopg.OperationalError: it cannot be reached.
    """
    connection = _Connection.connect(
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
    if not patience:
        connection.patience_s = PATIENCE * settings.db_statement_timeout_s
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
            self._connection = open_connection(self._settings, self._application, patience=False)
        return self._connection

    def transact(self, statements: Sequence[Statement]) -> list[tuple[Any, ...]]:
        """Execute all in one transaction and one round trip; returns the rows of the last.

        Should we be cut off in the middle of it, the server ends it within 20 s: its locks keep others from going on.
        """
        connection = self.connection()
        HEALTH.beat("writer")
        cursor, first, last = connection.cursor(), connection.cursor(), connection.cursor()
        timeout = str(int(self._settings.db_statement_timeout_s * 1000))
        with connection.pipeline():
            cursor.execute("BEGIN")
            first.execute(_LOCAL, (timeout,))
            for sql, parameters in statements[:-1]:
                cursor.execute(sql, parameters)
            last.execute(*statements[-1])
            now = time.time()
            cursor.execute("COMMIT")
        self._delay = _FIRST_DELAY_S
        HEALTH.beat("writer")
        HEALTH.recover("PostgreSQL")
        for *_, server_now in first:
            metrics.CLOCK_AHEAD.labels(server="postgresql").set(now - server_now)
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
        HEALTH.beat("writer")
        HEALTH.complain("PostgreSQL", "it does not store what is written, which is tried again; the log says why")
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
