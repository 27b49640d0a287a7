"""PostgreSQL: whether it answers, has the schema, and lets our role do its work."""

from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from connectors.errors import SlateError
from connectors.schema import pending
from connectors.settings import Settings
from connectors.sql import read
from deploy.checks.row import STALE_S, Check, first_line, size, some

OLDEST_POSTGRESQL: Final = 14


def check_postgres(settings: Settings) -> Iterator[Check]:
    """Connection, version, schema, permissions, partitions, size."""
    try:
        connection = connect_postgres(settings)
    except SlateError as error:
        yield Check("PostgreSQL", "fail", "no address", str(error))
        return
    except psycopg.Error as error:
        remedy = (
            "check that it runs, and SLATE_DB_HOST, SLATE_DB_PORT, SLATE_DB_NAME, SLATE_DB_USER and "
            "SLATE_DB_PASSWORD; or start one with `slate up`"
        )
        yield Check("PostgreSQL", "fail", first_line(error), remedy)
        return
    address = f"{settings.db_user}@{settings.db_host}:{settings.db_port}/{settings.db_name}"
    yield Check("PostgreSQL", "ok", address)
    try:
        with connection:
            yield from _examine_database(connection, settings)
    except psycopg.Error as error:
        yield Check("PostgreSQL", "fail", f"stopped answering: {first_line(error)}", "see its log")


def _examine_database(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    yield _postgres_version(connection)
    yield from _postgres_server(connection)
    for section in (_schema(settings), _permissions(connection)):
        for check in section:
            yield check
            if check.state == "fail":
                return  # what follows would only repeat it
    hidden = []
    for name, look in (
        ("partitions", _months),
        ("retention", _lost),
        ("rollups", _rollups),
        ("receivers", _deliveries),
    ):
        try:
            yield from look(connection, settings)
        except psycopg.errors.InsufficientPrivilege:
            hidden.append(name)
    if hidden:
        yield Check("not looked at", "ok", f"{', '.join(hidden)}: this role may not see it, slate_owner may")


def connect_postgres(settings: Settings, *, replica: bool = False) -> psycopg.Connection[DictRow]:
    """A connection to the primary, or to the replica, with short time-outs.

    Raises:
        ConfigurationError: no PostgreSQL is set.
        psycopg.OperationalError: it cannot be reached.
    """
    dsn = settings.dsn(connect_timeout=3, application_name="slate doctor")
    if replica:
        dsn |= {"host": settings.db_replica_host or "", "dbname": settings.db_replica_name or settings.db_name}
    elif "," in str(dsn["host"]):
        dsn["target_session_attrs"] = "read-write"
    return psycopg.connect(make_conninfo("", **dsn), autocommit=True, prepare_threshold=None, row_factory=dict_row)


def query(connection: psycopg.Connection[DictRow], name: str, **arguments: Any) -> list[DictRow]:
    """Rows of a file below `sql/doctor/`, within 5 s."""
    with connection.transaction():  # behind a pooler, what is set for a session stays with another's
        connection.execute("SET LOCAL statement_timeout = '5s'")
        return connection.execute(read(f"doctor/{name}.sql").encode(), arguments or None).fetchall()


def _postgres_version(connection: psycopg.Connection[DictRow]) -> Check:
    major, minor = divmod(connection.info.server_version, 10_000)
    found = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_POSTGRESQL:
        return Check("version", "fail", found, f"upgrade it to {OLDEST_POSTGRESQL} or later")
    return Check("version", "ok", found)


def _postgres_server(connection: psycopg.Connection[DictRow]) -> Iterator[Check]:
    (server,) = query(connection, "server")
    if server["pid"] != connection.info.backend_pid:
        yield Check("pooler", "ok", "one stands between us and PostgreSQL")
    if server["standby"]:
        yield Check("primary", "fail", "this is a standby: read only", "point SLATE_DB_HOST to the primary")
    if not server["durable"]:
        yield Check("durability", "warn", "fsync is off: a crash may damage the database", "set fsync = on")
    yield Check("database size", "ok", size(server["bytes"]))


def _schema(settings: Settings) -> Iterator[Check]:
    try:
        missing = pending(settings)
    except SlateError as error:
        yield Check("schema", "fail", first_line(error), "run `slate migrate`")
        return
    if missing:
        yield Check("schema", "fail", f"not applied: {', '.join(missing)}", "run `slate migrate`")
    else:
        yield Check("schema", "ok", "all migrations are applied")


def _permissions(connection: psycopg.Connection[DictRow]) -> Iterator[Check]:
    missing = [row["missing"] for row in query(connection, "permissions")]
    if missing:
        yield Check("permissions", "fail", f"missing: {some(missing)}", "grant them to the role of SLATE_DB_USER")
    else:
        yield Check("permissions", "ok", "the role may do what a worker does")


def _months(connection: psycopg.Connection[DictRow], _: Settings) -> Iterator[Check]:
    missing = [row["missing"] for row in query(connection, "months")]
    if missing:
        yield Check("partitions", "warn", f"missing: {', '.join(missing)}", "run `slate migrate`, which adds them")
    else:
        yield Check("partitions", "ok", "spark_events has this month and the next")


def _lost(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    # Sequences are of the stream, so every partition reports the same gap.
    lost = max((row["lost"] for row in query(connection, "progress", stream=settings.stream)), default=0)
    if lost:
        yield Check(
            "retention",
            "warn",
            f"up to {lost:,} messages left the stream before they were read",
            "give the stream more room (max_age, max_bytes), and see slate.gaps for which ones",
        )


def _rollups(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    (found,) = query(connection, "rollups", stream=settings.stream)
    behind, age = found["behind"], found["age"]
    remedy = "start `python -m bytewax.run flows.rollups`; if it runs, see its log"
    if behind and age is None:
        yield Check("rollups", "warn", f"{behind:,} stored messages, and none was ever counted", remedy)
    elif behind and age > STALE_S:
        yield Check("rollups", "warn", f"{behind:,} stored messages are not counted, for {age:,.0f} s now", remedy)
    else:
        yield Check("rollups", "ok", f"{behind:,} stored messages are not counted yet")


def _deliveries(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    remedy = "check its address and secret; `slate alerts list` shows what became of each alert"
    for row in query(connection, "alerts", stream=settings.stream):
        if row["waiting"] or row["lost"]:
            found = (
                f"{row['waiting']:,} alerts wait for minutes, {row['lost']:,} of a day never arrived: {row['error']}"
            )
            yield Check(f"receiver {row['receiver']}", "warn", found, remedy)
