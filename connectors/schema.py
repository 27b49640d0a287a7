"""Applies the migrations in `sql/migrations/`, in order, each once, with yoyo (its bookkeeping is in `slate`).

All that a database lacks is applied in one transaction, with the record of it: whatever fails or is killed, all of
it is there or nothing.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.resources import as_file, files
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo
from yoyo import internalmigrations, read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.migrations import default_migration_table

from connectors.errors import ConnectionFailedError, SchemaError, SlateError
from connectors.link import open_connection
from connectors.settings import Settings
from connectors.sql import read

_TRIES: Final = 30
_PAUSE_S: Final = 2.0  # in which those get on who waited behind us

_log = structlog.get_logger(__name__)


def migrate(settings: Settings) -> list[str]:
    """Bring the database to this version's schema; returns the names of the migrations that it lacked.

    Several may run at once: one works, the others wait and find nothing to do. A table that somebody else holds is
    waited for 2 s at a time, because everyone else waits behind us. The partitions of the coming months are made as
    well.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        ConnectionFailedError: it cannot be reached.
        SchemaError: a migration failed, or the role may not change the schema; nothing is applied.
    """
    try:
        with open_connection(settings, "slate-migrate") as connection:
            applied = _patiently(connection)
            connection.execute(read("maintenance/months_ahead.sql"), {"today": datetime.now(UTC).date()})
            return applied
    except psycopg.Error as error:
        raise _explained(error, settings) from None


def check_schema(settings: Settings) -> None:
    """See that the database has all that this version needs; a later version's is fine, and one that is away, too.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        SchemaError: it lacks migrations, or the role may not see them.
    """
    try:
        missing = pending(settings)
    except ConnectionFailedError as error:
        _log.warning("cannot see the schema yet", error=str(error))
        return
    if missing:
        raise SchemaError(f"the database lacks migrations {', '.join(missing)}: run `slate migrate` of this version")


def pending(settings: Settings) -> list[str]:
    """Names of the migrations that the database lacks.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        ConnectionFailedError: it cannot be reached.
        SchemaError: the role may not see what is applied.
    """
    applied: set[str] = set()
    dsn = make_conninfo("", **settings.dsn(application_name="slate-pending"))
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            applied.update(name for (name,) in connection.execute(read("maintenance/applied.sql")))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        pass  # nothing was ever applied
    except psycopg.Error as error:
        raise _explained(error, settings) from None
    with _migrations() as migrations:
        return [one.id for one in migrations if one.id not in applied]


def _explained(error: psycopg.Error, settings: Settings) -> SlateError:
    text = str(error).strip()
    if isinstance(error, psycopg.OperationalError):
        return ConnectionFailedError(f"PostgreSQL: {text}; check SLATE_DB_HOST, SLATE_DB_USER and that the server runs")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        role, database = sql.Identifier(settings.db_user).as_string(), sql.Identifier(settings.db_name).as_string()
        return SchemaError(
            f"the role {role} may not see or change the schema: {text}; as an administrator of the database: "
            f"GRANT CREATE ON DATABASE {database} TO {role}; GRANT USAGE, CREATE ON SCHEMA public TO {role}; "
            "what another role has made already must be given to this one"
        )
    return SchemaError(f"the schema is unchanged: {text}; remove what is in the way, and run `slate migrate` again")


@contextmanager
def _migrations() -> Iterator[Any]:
    with as_file(files("sql") / "migrations") as directory:
        yield read_migrations(str(directory))


def _patiently(connection: psycopg.Connection[Any]) -> list[str]:
    for left in reversed(range(_TRIES)):
        try:
            with connection.transaction():
                connection.execute(read("maintenance/begin_migration.sql"))
                applied = _apply(connection)
                connection.execute(read("roles/grants.sql"))
                return applied
        except psycopg.errors.LockNotAvailable as error:
            if not left:
                raise
            _log.warning("somebody holds what is to be changed", error=str(error).strip(), again_in_s=_PAUSE_S)
            time.sleep(_PAUSE_S)  # a lock gives no sign when it is free, and to wait in its queue holds up writers
    raise AssertionError


def _apply(connection: psycopg.Connection[Any]) -> list[str]:
    backend = _InOneTransaction(connection)
    with _migrations() as migrations:
        missing = backend.to_apply(migrations)
        backend.apply_migrations(missing)
        return [one.id for one in missing]


class _InOneTransaction(PostgresqlPsycopgBackend):  # type: ignore[misc] # yoyo has no types
    """Yoyo inside a transaction and under a lock that are ours.

    By itself it commits a migration before it records it, and its lock is a row that stays when it is killed: after
    either, no later run succeeds. Its session-wide search path would not hold behind a pooler.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._ours = connection
        super().__init__(parse_uri("postgresql+psycopg:"), default_migration_table)

    def connect(self, dburi: object) -> psycopg.Connection[Any]:
        return self._ours

    def copy(self) -> AbstractContextManager["_InOneTransaction"]:
        return nullcontext(self)

    def transaction(self, rollback_on_exit: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def disable_transactions(self) -> AbstractContextManager[None]:
        raise SchemaError("a migration with `transactional: false` cannot run in the transaction of the others")

    def ensure_internal_schema_updated(self) -> None:
        if internalmigrations.needs_upgrading(self):
            internalmigrations.upgrade(self)

    def log_migration(self, migration: Any, operation: str) -> None:
        """Write no log: it repeats the record, and wants a user's name, which not every container has."""
