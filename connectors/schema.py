"""Applies the migrations in `sql/migrations/`, in order, each once, with yoyo (its bookkeeping is in `slate`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from yoyo import get_backend, read_migrations

from connectors.errors import ConnectionFailedError, SchemaError
from connectors.settings import Settings
from connectors.sql import read


def migrate(settings: Settings) -> list[str]:
    """Bring the database to this version's schema; returns the names of the migrations that it lacked.

    Several may run at once: one works, the others wait and find nothing to do.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        ConnectionFailedError: it cannot be reached.
        SchemaError: a migration failed; none of its statements is applied.
    """
    try:
        with (
            psycopg.connect(**settings.dsn(application_name="slate-migrate"), autocommit=True) as connection,  # type: ignore[arg-type]
            connection.transaction(),
        ):
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('slate.migrate'))")
            with psycopg.connect(**settings.dsn(application_name="slate-migrate"), autocommit=True) as worker:  # type: ignore[arg-type]
                worker.execute("CREATE SCHEMA IF NOT EXISTS slate")
            applied = _apply(settings)
        with psycopg.connect(**settings.dsn(application_name="slate-migrate"), autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(read("maintenance/months_ahead.sql"))
        return applied
    except psycopg.OperationalError as error:
        raise ConnectionFailedError(
            f"PostgreSQL: {str(error).strip()}; check SLATE_DB_HOST, SLATE_DB_USER and that the server runs"
        ) from None
    except psycopg.Error as error:
        raise SchemaError(
            f"the schema could not be changed: {str(error).strip()}; check the role's permissions"
        ) from None


def pending(settings: Settings) -> list[str]:
    """Names of the migrations that the database lacks.

    Raises:
        ConnectionFailedError: PostgreSQL cannot be reached.
    """
    try:
        with psycopg.connect(**settings.dsn(application_name="slate-doctor"), autocommit=True) as connection:  # type: ignore[arg-type]
            found = connection.execute("SELECT to_regclass('slate._yoyo_migration') IS NOT NULL").fetchone()
            applied: set[str] = set()
            if found and found[0]:
                applied = {row[0] for row in connection.execute("SELECT migration_id FROM slate._yoyo_migration")}
    except psycopg.OperationalError as error:
        raise ConnectionFailedError(f"PostgreSQL: {str(error).strip()}; check SLATE_DB_HOST") from None
    with _migrations() as migrations:
        return [one.id for one in migrations if one.id not in applied]


@contextmanager
def _migrations() -> Iterator[Any]:
    with as_file(files("sql") / "migrations") as directory:
        yield read_migrations(str(directory))


def _apply(settings: Settings) -> list[str]:
    dsn = settings.dsn()
    user, password = quote(str(dsn["user"]), safe=""), quote(str(dsn.get("password", "")), safe="")
    # The host goes as an argument: it may be a list of hosts or the directory of a socket.
    where = urlencode({"schema": "slate", "host": dsn["host"], "port": dsn["port"]})
    backend = get_backend(f"postgresql+psycopg://{user}:{password}@/{quote(str(dsn['dbname']), safe='')}?{where}")
    try:
        with _migrations() as migrations:
            missing = backend.to_apply(migrations)
            backend.apply_migrations(missing)
            return [one.id for one in missing]
    finally:
        backend.connection.close()
