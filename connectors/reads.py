"""Reads for people: from the replica while it is well and up to date, else from the primary.

Guarantee: a read is answered by a server that is not further behind than `max_lag_s` as long as one such server can be
reached; where only another can be reached, that one answers. A server that fails is left alone at once, looked at every
second, and taken again when it answers; what it failed to answer is asked of the other.

Every read is a transaction of its own, read-only and with a time limit, sent in one round trip: nothing of a session is
needed, so PgBouncer in transaction mode may stand between.
"""

import asyncio
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec
import psycopg
import structlog
from prometheus_client import Counter, Gauge, Histogram
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from connectors.errors import ConnectionFailedError, SlateError
from connectors.faults import Fault, classify
from connectors.postgres import as_slate_error
from connectors.replica_lag import Lag
from connectors.settings import Settings
from connectors.sql import read

STATEMENT_TIMEOUT_S: Final = 5.0
MAX_LAG_S: Final = 10.0
READS: Final = Histogram(
    "spark_reads_seconds",
    "How long reads took, waiting for a connection included, by the server that answered",
    ["source"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
FALLBACKS: Final = Counter("spark_read_fallbacks", "Reads that another server had to answer, by reason", ["reason"])
REPLICA_LAG: Final = Gauge("spark_replica_lag_seconds", "How far the replica is behind; NaN while nobody knows")

_LOOK_EVERY_S: Final = 1.0
_LOOK_S: Final = 1.0  # within which a server answers what we ask to see whether it is well
_POOL: Final = 8
_CONNECTION: Final = ("08", "57P")  # SQLSTATE of a connection that is lost or a server that stops
_POOL_WAIT_S: Final = 2.0

_log = structlog.get_logger(__name__)
T = TypeVar("T")
_Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_Pool = AsyncConnectionPool[_Connection]


class ReadTimeoutError(SlateError):
    """A read took longer than `STATEMENT_TIMEOUT_S`; ask for less, or see `spark_reads_seconds`."""


class _RawJson(Loader):
    """jsonb as its text: numbers keep their digits, and nobody parses what is sent on as it is."""

    def load(self, data: Buffer) -> msgspec.Raw:
        return msgspec.Raw(bytes(data))


class _Failed(Exception):  # noqa: N818 - not an error yet: another server may answer
    """A server did not answer, and why."""

    def __init__(self, reason: str, error: psycopg.Error) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


class _Server:
    """One server: whether it answers, and a pool of connections while it does."""

    def __init__(self, name: str, dsn: Mapping[str, Any], position: str) -> None:
        self.name = name
        self._dsn = {
            **dsn,
            "connect_timeout": 2,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "autocommit": True,
            "prepare_threshold": None,
        }
        self._position = position
        self._pool: _Pool | None = None
        self._busy: set[_Connection] = set()
        self._watch: _Connection | None = None
        self._late = False
        self._closing: set[asyncio.Task[None]] = set()
        self.why = ""
        """Why it does not answer, empty while it does."""

    @property
    def up(self) -> bool:
        """Whether it answered when it was asked last."""
        return self._pool is not None

    async def look(self) -> tuple[Any, ...] | None:
        """Ask it where it is; None where it does not answer in time. This is what takes it up and down."""
        self._late = False
        asked = asyncio.create_task(self._ask())
        try:
            await asyncio.wait({asked}, timeout=_LOOK_S)
        finally:
            if not asked.done():
                self._late = True
                if self._watch is None:
                    asked.cancel()
                else:
                    _hang_up(self._watch)
                await asyncio.wait({asked})
        if asked.cancelled():
            await self._down(self._pool, f"no answer within {_LOOK_S:.0f} s")
            return None
        if (error := asked.exception()) is not None:
            if not isinstance(error, psycopg.Error):
                raise error
            await self._down(self._pool, str(error))
            return None
        if self._pool is None:
            await self._take_up()
        return asked.result()

    async def fetch(self, sql: str, parameters: Mapping[str, Any], into: type[T]) -> list[T]:
        """Rows of a statement.

        Raises:
            _Failed: another server should be asked.
            psycopg.Error: no other server would do better.
        """
        if (pool := self._pool) is None:
            raise _Failed(f"{self.name}_away", errors.ConnectionFailure(f"the {self.name} does not answer"))
        try:
            async with pool.connection() as connection:
                self._busy.add(connection)
                try:
                    return await _transact(connection, sql, parameters, into)
                finally:
                    self._busy.discard(connection)
        except PoolTimeout as error:
            raise _Failed("busy", error) from None
        except errors.SerializationFailure as error:
            raise _Failed("recovery_conflict", error) from None
        except psycopg.OperationalError as error:
            if not (error.sqlstate or _CONNECTION[0]).startswith(_CONNECTION):
                raise
            await self._down(pool, str(error))
            raise _Failed(f"{self.name}_away", error) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._down(self._pool, "")
        if self._watch is not None:
            await self._watch.close()
        await asyncio.gather(*self._closing)

    async def _ask(self) -> tuple[Any, ...]:
        while True:
            kept = self._watch is not None and not self._watch.closed
            if not kept:
                self._watch = None
                self._watch = await psycopg.AsyncConnection.connect(**self._dsn)
            assert self._watch is not None  # noqa: S101 - for the type checker
            try:
                row = await (await self._watch.execute(self._position.encode())).fetchone()
            except psycopg.Error:
                await self._watch.close()
                if kept and not self._late:
                    continue  # it may have been restarted
                raise
            assert row is not None  # noqa: S101 - it selects from nothing
            return row

    async def _take_up(self) -> None:
        if self.why:
            _log.info("reads: a server answers again", server=self.name)
        self.why = ""
        self._pool = AsyncConnectionPool(
            kwargs=self._dsn,
            connection_class=psycopg.AsyncConnection[tuple[Any, ...]],
            min_size=1,
            max_size=_POOL,
            timeout=_POOL_WAIT_S,
            reconnect_timeout=_POOL_WAIT_S,
            configure=_configure,
            open=False,
            name=f"reads-{self.name}",
        )
        await self._pool.open()

    async def _down(self, pool: _Pool | None, why: str) -> None:
        """Leave it alone, unless it was taken up anew. Reads that are under way on it fail now."""
        if pool is not self._pool:
            return
        if why and not self.why:
            _log.warning("reads: a server does not answer", server=self.name, why=why.strip())
        self.why = why.strip()
        if pool is None:
            return
        self._pool = None
        for connection in self._busy:
            _hang_up(connection)
        closing = asyncio.create_task(pool.close(timeout=1.0))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _configure(connection: _Connection) -> None:
    connection.adapters.register_loader("jsonb", _RawJson)
    await connection.execute("SET TIME ZONE 'UTC'")  # PgBouncer carries this one over


async def _transact(connection: _Connection, sql: str, parameters: Mapping[str, Any], into: type[T]) -> list[T]:
    cursor = connection.cursor(row_factory=class_row(into))
    async with connection.pipeline():
        await connection.execute("BEGIN READ ONLY")
        await connection.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)",
            (str(int(STATEMENT_TIMEOUT_S * 1000)),),
        )
        await cursor.execute(sql.encode(), parameters)
        await connection.execute("COMMIT")
    return await cursor.fetchall()


def _hang_up(connection: _Connection) -> None:
    """End a connection under whoever waits for its answer: they get an error. Cancelling would wait for the server."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as its:
        its.shutdown(socket.SHUT_RDWR)


class Reader:
    """Reads from the replica, where one is set, and from the primary. Use it as an asynchronous context.

    Args:
        settings: name the servers; both have the same port and role.
        max_lag_s: how far behind the replica may be to be read from, seconds.
    """

    def __init__(self, settings: Settings, *, max_lag_s: float = MAX_LAG_S) -> None:
        dsn = settings.dsn(application_name="slate-api")
        self._max_lag_s = max_lag_s
        self._primary = _Server("primary", dsn, read("queries/primary_position.sql"))
        host = settings.db_replica_host
        name = settings.db_replica_name or settings.db_name
        self._replica = (
            _Server(
                "replica",
                {**dsn, "host": host, "dbname": name, "target_session_attrs": "any"},
                read("queries/replica_position.sql"),
            )
            if host
            else None
        )
        self._lag = Lag()
        self._lag_s: float | None = None
        self._looks = 0
        self._look_lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._look()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for server in self._servers():
            await server.close()

    async def rows(self, name: str, parameters: Mapping[str, Any], into: type[T], *, fresh: bool = False) -> list[T]:
        """Rows of a file below `sql/`, each made `into(**columns)`.

        Args:
            name: such as `queries/sessions.sql`.
            parameters: by name; jsonb comes back as `msgspec.Raw`, timestamps in UTC.
            into: what takes the columns by name.
            fresh: what was written before must be seen: from the primary, if it can be reached.

        Raises:
            ConnectionFailedError: no server answers.
            ReadTimeoutError: it took too long.
            SchemaError: the schema is not there, or may not be read.
        """
        return await self.fetch(read(name), parameters, into, fresh=fresh)

    async def fetch(self, sql: str, parameters: Mapping[str, Any], into: type[T], *, fresh: bool = False) -> list[T]:
        """As `rows`, of a statement."""
        begun = time.perf_counter()
        last: psycopg.Error | None = None
        looks = None
        for _ in range(2):
            if looks is not None:
                await self._look_again(looks)  # connections may be stale where the server is well
            looks = self._looks
            for server in self._order(fresh):
                try:
                    rows = await server.fetch(sql, parameters, into)
                except _Failed as failed:
                    FALLBACKS.labels(reason=failed.reason).inc()
                    last = failed.error
                except psycopg.Error as error:
                    raise _explained(error) from None
                else:
                    READS.labels(source=server.name).observe(time.perf_counter() - begun)
                    return rows
        if isinstance(last, PoolTimeout):
            raise ConnectionFailedError(
                f"PostgreSQL: all {_POOL} connections for reads were busy for {_POOL_WAIT_S:.0f} s; "
                "see spark_reads_seconds for what is slow"
            )
        why = "; ".join(f"{one.name}: {one.why}" for one in self._servers() if one.why)
        raise ConnectionFailedError(
            f"PostgreSQL: no server answers reads ({why}); check SLATE_DB_HOST and SLATE_DB_REPLICA_HOST"
        )

    async def health(self) -> dict[str, bool | float | None]:
        """What was seen within the last seconds: `primary` and `replica` answer (None: no replica is set), and how far
        the replica is behind, `replica_lag_s` (None: nobody knows)."""
        return {
            "primary": self._primary.up,
            "replica": self._replica.up if self._replica else None,
            "replica_lag_s": self._lag_s,
        }

    def _servers(self) -> list[_Server]:
        return [self._primary] if self._replica is None else [self._primary, self._replica]

    def _order(self, fresh: bool) -> list[_Server]:
        """Which servers to ask, in this order."""
        replica, primary = self._replica, self._primary
        if replica is None:
            return [primary] if primary.up else []
        near = self._lag_s is not None and self._lag_s <= self._max_lag_s
        order = [one for one in ([replica, primary] if near and not fresh else [primary, replica]) if one.up]
        meant = primary if fresh else replica
        if order and order[0] is not meant:
            FALLBACKS.labels(reason="lag" if meant.up else f"{meant.name}_away").inc()
        return order

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._look_again(self._looks)
            except Exception:  # noqa: BLE001 - else nobody would look any more
                _log.exception("reads: looking at the servers failed: this is a fault of the program")

    async def _look_again(self, looks: int) -> None:
        """Look, unless somebody has begun to look since there were so many looks."""
        async with self._look_lock:
            if looks == self._looks:
                await self._look()

    async def _look(self) -> None:
        self._looks += 1
        seen, replayed = await asyncio.gather(
            self._primary.look(), self._replica.look() if self._replica else asyncio.sleep(0)
        )
        if self._replica is None:
            return
        now = time.monotonic()
        if seen is not None and seen[0] is not None:
            self._lag.primary(now, seen[0])
        position, age_s = replayed or (None, None)
        self._lag_s = None if position is None else self._lag.replica(now, position, age_s)
        REPLICA_LAG.set(math.nan if self._lag_s is None else self._lag_s)


def _explained(error: psycopg.Error) -> Exception:
    if isinstance(error, errors.QueryCanceled):
        return ReadTimeoutError(f"PostgreSQL: a read took longer than {STATEMENT_TIMEOUT_S:.0f} s; ask for less")
    return as_slate_error(error) if classify(error) is Fault.FATAL else error
