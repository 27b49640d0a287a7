"""What each role of `sql/roles/` may do and may not, asked of the real server."""

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from connectors.sql import read
from tests.support.privileges import granted, refused, statements, unneeded
from tests.support.secure_postgres import SecurePostgres, secure_postgres
from tests.support.stack import connect

WRITER = statements(
    "ingest", "rollups", "alerts", "analytics", "dead_letters", "admin_log/append.sql", "maintenance/applied.sql"
) | statements("audit/at_rest.sql", "audit/differences.sql", "audit/repair.sql")
READER = statements("queries", "realtime", "maintenance/applied.sql")
OF_THE_OWNER = (
    "ingest/begin_partitions.sql",  # slate migrate
    "alerts/history.sql",  # slate alerts backtest
)
WITH_A_DAY = "ingest/ensure_month.sql"
for one in (*OF_THE_OWNER, WITH_A_DAY):
    del WRITER[one]


@pytest.fixture(scope="module")
def secured() -> Iterator[SecurePostgres]:
    with secure_postgres() as stack:
        yield stack


@pytest.fixture
def admin(secured: SecurePostgres) -> Iterator[psycopg.Connection]:
    with secured.primary.admin() as connection:
        yield connection


@pytest.mark.parametrize(
    ("role", "name", "statement"),
    [("slate_writer", name, text) for name, text in WRITER.items()]
    + [("slate_reader", name, text) for name, text in READER.items()],
    ids=lambda one: "" if " " in one else one,
)
def test_a_role_may_do_each_of_its_statements(admin: psycopg.Connection, role: str, name: str, statement: str) -> None:
    assert refused(admin, role, statement) is None


@pytest.mark.parametrize(("role", "work"), [("slate_writer", WRITER), ("slate_reader", READER)])
def test_a_role_has_no_privilege_that_none_of_its_statements_needs(
    admin: psycopg.Connection, role: str, work: dict[str, str]
) -> None:
    assert len(granted(admin, role)) > 10
    assert unneeded(admin, role, list(work.values())) == []


def test_each_table_is_decided_about(admin: psycopg.Connection) -> None:
    rows = admin.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname IN ('public', 'slate') AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition"
    )
    decided = set(re.findall(r"'((?:public|slate)\.\w+)'", read("roles/grants.sql")))
    assert {name for (name,) in rows} <= decided, "name them in sql/roles/grants.sql"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.mine (n int)",
        "CREATE TABLE slate.mine (n int)",
        "CREATE TEMPORARY TABLE mine (n int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE public.spark_events ADD COLUMN mine int",
        "DROP TABLE public.spark_sessions",
        "TRUNCATE public.spark_events",
        "DELETE FROM public.spark_events",
        "UPDATE public.spark_events SET payload = '{}'",
        "DELETE FROM public.spark_sessions",
        "DELETE FROM public.spark_function_calls",
        "DELETE FROM slate.progress",
        "DELETE FROM slate.event_ids",
        "DELETE FROM slate.dead_letters",
        "DELETE FROM slate.alerts",
        "UPDATE slate.dead_letters SET payload = ''",
        "SELECT payload FROM public.spark_events",
        "SELECT data FROM public.spark_telemetry",
        "SELECT script_content FROM public.spark_generated_scripts",
        "SELECT prompt FROM public.spark_generated_scripts",
        "SELECT meta FROM public.spark_previews",
        "SELECT * FROM slate.admin_log",
        "SELECT * FROM slate.forgetting",
        "SELECT * FROM pooler.secret('slate_owner')",
        "SELECT rolpassword FROM pg_authid",
        "ALTER ROLE slate_writer CREATEDB",
        "SET ROLE slate_owner",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY public.spark_usage_daily TO PROGRAM 'true'",
    ],
)
def test_the_writer_is_refused_what_it_does_not_need(secured: SecurePostgres, statement: str) -> None:
    with connect(secured.settings("writer")) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO public.spark_telemetry (session_id, kind, ts, data) VALUES ('s', 'k', now(), '{}')",
        "UPDATE public.spark_sessions SET meta = '{}'",
        "DELETE FROM public.spark_usage_daily",
        "SELECT slate.ensure_month('2031-01-01')",
        "CREATE TABLE public.mine (n int)",
        "SELECT payload FROM slate.dead_letters",
        "SELECT headers FROM slate.dead_letters",
        "SELECT * FROM slate.admin_log",
        "SELECT nextval('slate.event_row_id')",
        "SELECT * FROM public.spark_telemetry",
    ],
)
def test_the_reader_cannot_write_even_where_it_says_that_it_wants_to(secured: SecurePostgres, statement: str) -> None:
    with connect(secured.settings("reader")) as connection:
        connection.execute("BEGIN READ WRITE")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("public.spark_events", "payload"),
        ("public.spark_function_calls", "args"),
        ("public.spark_function_calls", "output"),
        ("public.spark_function_calls", "error"),
        ("public.spark_telemetry", "data"),
        ("public.spark_generated_scripts", "prompt"),
        ("public.spark_generated_scripts", "script_content"),
        ("public.spark_sessions", "user_id"),
        ("public.spark_sessions", "meta"),
        ("slate.dead_letters", "payload"),
        ("slate.dead_letters", "headers"),
        ("slate.dead_letters", "reason"),
        ("slate.admin_log", "arguments"),
    ],
)
def test_grafana_sees_nothing_of_what_users_wrote(secured: SecurePostgres, table: str, column: str) -> None:
    with connect(secured.settings("grafana", db_name="spark_ro")) as connection:
        connection.execute("SELECT count(*) FROM slate.windows")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"SELECT {column} FROM {table}".encode())


def test_no_role_is_more_than_a_role_and_everybody_else_stays_outside(admin: psycopg.Connection) -> None:
    rows = admin.execute(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, "
        "(SELECT count(*) FROM pg_auth_members AS m WHERE m.member = r.oid) FROM pg_roles AS r "
        "WHERE rolname ~ '^slate_' OR rolname = 'grafana' ORDER BY rolname"
    ).fetchall()
    assert [row[0] for row in rows] == [
        *("grafana", "slate_owner", "slate_pooler", "slate_reader", "slate_replica", "slate_writer")
    ]
    assert all(row[1:] == (False, False, False, False, row[0] == "slate_replica", 0) for row in rows)
    with admin.transaction(force_rollback=True):
        admin.execute("CREATE ROLE stranger LOGIN")
        row = admin.execute(
            "SELECT has_database_privilege('stranger', current_database(), 'CONNECT'), "
            "has_database_privilege('stranger', current_database(), 'TEMPORARY'), "
            "has_schema_privilege('stranger', 'public', 'CREATE'), has_schema_privilege('stranger', 'public', 'USAGE'),"
            "has_function_privilege('stranger', 'slate.ensure_month(date)', 'EXECUTE'),"
            "has_function_privilege('stranger', 'pooler.secret(text)', 'EXECUTE')"
        ).fetchone()
        assert row == (False,) * 6


def test_the_pooler_learns_secrets_of_its_roles_and_reads_nothing_else(
    secured: SecurePostgres, admin: psycopg.Connection
) -> None:
    as_pooler = {"user": "slate_pooler", "password": secured.password("slate_pooler")}
    with connect(secured.settings("writer", direct=True), **as_pooler) as connection:
        asked = "SELECT left(secret, 14) FROM pooler.secret(%s)"
        assert connection.execute(asked, ("slate_writer",)).fetchone() == ("SCRAM-SHA-256$",)
        for other in ("postgres", "slate_replica", "slate_pooler"):
            assert connection.execute(asked, (other,)).fetchall() in ([], [(None,)])
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SELECT count(*) FROM slate.windows")


def test_what_a_later_migration_makes_can_be_used_at_once(secured: SecurePostgres) -> None:
    with connect(secured.settings("owner")) as owner:
        owner.execute("CREATE TABLE slate.later (id bigint GENERATED BY DEFAULT AS IDENTITY, n int)")
        owner.execute("CREATE SEQUENCE slate.later_row_id")
        owner.execute("CREATE TABLE public.spark_later (n int)")
        try:
            with connect(secured.settings("writer")) as writer:
                writer.execute("INSERT INTO slate.later (n) SELECT nextval('slate.later_row_id')")
                writer.execute("UPDATE slate.later SET n = n + 1")
                writer.execute("INSERT INTO public.spark_later VALUES (1)")
                with pytest.raises(errors.InsufficientPrivilege):
                    writer.execute("DELETE FROM slate.later")
                with pytest.raises(errors.InsufficientPrivilege):
                    writer.execute("SELECT n FROM public.spark_later")
            with connect(secured.settings("reader")) as reader:
                assert reader.execute("SELECT n FROM slate.later").fetchall() == [(2,)]
                assert reader.execute("SELECT n FROM public.spark_later").fetchall() == [(1,)]
            with connect(secured.settings("grafana")) as grafana, pytest.raises(errors.InsufficientPrivilege):
                grafana.execute("SELECT n FROM slate.later")
        finally:
            owner.execute("DROP TABLE slate.later, public.spark_later")
            owner.execute("DROP SEQUENCE slate.later_row_id")


def test_a_worker_makes_a_month_that_it_does_not_own(secured: SecurePostgres, admin: psycopg.Connection) -> None:
    with connect(secured.settings("writer")) as writer:
        assert writer.execute("SELECT slate.ensure_month('2021-05-09')").fetchone() == ("spark_events_2021_05",)
        writer.execute(
            "INSERT INTO spark_events (session_id, type, ts, payload) VALUES ('s', 't', '2021-05-09 12:00Z', '{}')"
        )
        with pytest.raises(errors.InsufficientPrivilege):
            writer.execute("SELECT payload FROM spark_events_2021_05")
        with pytest.raises(errors.InsufficientPrivilege):
            writer.execute("DROP TABLE spark_events_2021_05")
    with connect(secured.settings("reader")) as reader:
        may = reader.execute("SELECT session_id FROM spark_events WHERE ts < '2022-01-01Z'").fetchall()
        assert may == [("s",)]
    owner = admin.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'spark_events_2021_05'").fetchone()
    assert owner == ("slate_owner",)


def test_roles_can_be_made_again_after_an_upgrade(secured: SecurePostgres, admin: psycopg.Connection) -> None:
    before = granted(admin, "slate_writer"), granted(admin, "slate_reader")
    admin.execute(read("roles/roles.sql").encode())
    with connect(secured.settings("owner")) as owner:
        owner.execute(read("roles/grants.sql").encode())
    assert (granted(admin, "slate_writer"), granted(admin, "slate_reader")) == before
