import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from psycopg import sql
from pydantic import SecretStr

from connectors.errors import ConnectionFailedError, SchemaError
from connectors.schema import migrate, pending
from connectors.settings import Settings
from deploy.processes import environment_of
from tests.support.stack import connect
from tests.support.waiting import eventually

MIGRATE = (
    "import json; from connectors.schema import migrate; from connectors.settings import Settings; "
    "print(json.dumps(migrate(Settings.load())))"
)
"""A whole process of it, to race and to kill."""
BACK_TO_BEFORE_THE_FIRST_MIGRATION = """
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
    CREATE SCHEMA kept;
    ALTER TABLE slate._yoyo_log SET SCHEMA kept;
    ALTER TABLE slate._yoyo_version SET SCHEMA kept;
    ALTER TABLE slate._yoyo_migration SET SCHEMA kept;
    DROP SCHEMA slate CASCADE;
    ALTER SCHEMA kept RENAME TO slate;
    DELETE FROM slate._yoyo_migration
"""


@contextmanager
def migrating(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], **environment_of(settings)}
    process = subprocess.Popen([sys.executable, "-c", MIGRATE], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def waiting_for_a_lock(settings: Settings) -> int:
    with connect(settings) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'slate-migrate' AND wait_event_type = 'Lock'"
        ).fetchone()
    return int(row[0]) if row else 0


def relations(settings: Settings) -> set[str]:
    """All that migrations make, schemas included."""
    with connect(settings) as connection:
        rows = connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'slate') "
            "UNION SELECT nspname FROM pg_namespace WHERE nspname = 'slate'"
        )
        return {name for (name,) in rows}


@contextmanager
def role(settings: Settings, name: str, password: str) -> Iterator[Settings]:
    """Settings of another role, who may do nothing yet in this database."""
    identifier = sql.Identifier(name)
    with connect(settings) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, sql.Literal(password)))
        try:
            yield settings.model_copy(update={"db_user": name, "db_password": SecretStr(password)})
        finally:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(identifier))
            connection.execute(sql.SQL("DROP ROLE {}").format(identifier))


def test_a_second_run_finds_nothing_to_do(empty_settings: Settings) -> None:
    missing = pending(empty_settings)
    assert missing[0] == "0001-tables"
    assert migrate(empty_settings) == missing
    before = relations(empty_settings)
    assert pending(empty_settings) == []
    assert migrate(empty_settings) == []
    assert relations(empty_settings) == before


def test_of_two_processes_one_applies_the_migrations_and_the_other_waits(empty_settings: Settings) -> None:
    missing = pending(empty_settings)
    with ExitStack() as stack:
        gate = stack.enter_context(connect(empty_settings))
        gate.execute("SELECT pg_advisory_lock(hashtext('slate.migrate'))")
        processes = [stack.enter_context(migrating(empty_settings)) for _ in range(2)]
        eventually(lambda: waiting_for_a_lock(empty_settings) == 2, 30, what="both wait for the other one")
        gate.execute("SELECT pg_advisory_unlock_all()")
        applied = [json.loads(process.communicate(timeout=30)[0]) for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    assert sorted(applied) == [[], missing]
    assert pending(empty_settings) == []


@pytest.mark.parametrize("table", ["public.spark_usage_daily", "slate.gaps"])
def test_a_migration_that_fails_leaves_nothing_of_any(empty_settings: Settings, table: str) -> None:
    missing = pending(empty_settings)
    with connect(empty_settings) as connection:
        connection.execute("CREATE SCHEMA slate")
        connection.execute(f"CREATE TABLE {table} (mine int)".encode())
        before = relations(empty_settings)
        with pytest.raises(SchemaError, match=f"schema is unchanged.*{table.split('.')[1]}.*slate migrate"):
            migrate(empty_settings)
        assert relations(empty_settings) == before
        assert pending(empty_settings) == missing
        connection.execute(f"DROP TABLE {table}".encode())
    assert migrate(empty_settings) == missing


def killed_at(settings: Settings, lock: str) -> None:
    """Kill -9 a migration while it waits for what this statement, not committed, holds."""
    with connect(settings) as connection, connection.transaction(force_rollback=True):
        connection.execute(lock.encode())
        with migrating(settings):
            eventually(lambda: waiting_for_a_lock(settings), 30, what="the migration reaches the lock")


@pytest.mark.parametrize("table", ["public.spark_sessions", "public.spark_events_daily", "slate.dead_letters"])
def test_a_migration_that_was_killed_while_it_made_a_table_is_made_up_for(empty_settings: Settings, table: str) -> None:
    with connect(empty_settings) as connection:
        connection.execute("CREATE SCHEMA slate")
    missing = pending(empty_settings)
    killed_at(empty_settings, f"CREATE TABLE {table} (mine int)")
    assert migrate(empty_settings) == missing
    assert pending(empty_settings) == []


def test_a_migration_that_was_killed_before_it_was_recorded_is_made_up_for(empty_settings: Settings) -> None:
    missing = migrate(empty_settings)
    with connect(empty_settings) as connection:
        connection.execute(BACK_TO_BEFORE_THE_FIRST_MIGRATION)
    killed_at(empty_settings, "LOCK TABLE slate._yoyo_migration IN SHARE MODE")
    assert migrate(empty_settings) == missing
    assert pending(empty_settings) == []


def test_names_and_passwords_may_hold_any_character(empty_settings: Settings) -> None:
    with role(empty_settings, "o'dd \"rô/le@%41", "p@ss:w/ö%41rd'\"\\ ?#&=+") as odd, connect(empty_settings) as admin:
        admin.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(odd.db_user)))
        admin.execute(
            sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                sql.Identifier(odd.db_name), sql.Identifier(odd.db_user)
            )
        )
        assert migrate(odd)
        assert pending(odd) == []


def test_a_role_without_permission_is_told_which_statements_give_it(empty_settings: Settings) -> None:
    with role(empty_settings, 'po"or', "x") as poor, connect(empty_settings) as admin:
        with pytest.raises(SchemaError, match='role "po""or" may not') as refusal:
            migrate(poor)
        statements = re.findall(r"GRANT [^;]+", str(refusal.value))
        assert len(statements) == 2
        for statement in statements:
            admin.execute(statement.encode())
        assert migrate(poor)


def test_a_role_may_migrate_into_a_schema_that_it_was_given(empty_settings: Settings) -> None:
    with role(empty_settings, "tenant", "x") as tenant, connect(empty_settings) as admin:
        admin.execute("CREATE SCHEMA slate AUTHORIZATION tenant")
        admin.execute("GRANT CREATE ON SCHEMA public TO tenant")
        assert migrate(tenant)


def test_a_role_that_may_not_see_what_is_applied_is_told_so(settings: Settings) -> None:
    with role(settings, "stranger", "x") as stranger, pytest.raises(SchemaError, match='role "stranger" may not'):
        pending(stranger)


def test_a_server_that_does_not_answer_is_not_taken_for_an_empty_one(empty_settings: Settings) -> None:
    nobody = empty_settings.model_copy(update={"db_port": 1})
    for act in (migrate, pending):
        with pytest.raises(ConnectionFailedError, match="SLATE_DB_HOST"):
            act(nobody)


def test_a_user_without_a_name_can_migrate(empty_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # as a container's arbitrary user
    assert migrate(empty_settings)


def test_the_tool_keeps_its_records_in_our_schema(settings: Settings) -> None:
    with connect(settings) as connection:
        rows = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename LIKE '%yoyo%'").fetchall()
    assert set(rows) == {("slate",)}


def test_an_error_never_shows_the_password(empty_settings: Settings) -> None:
    wrong = empty_settings.model_copy(update={"db_password": SecretStr("s3cret")})
    with pytest.raises(ConnectionFailedError) as refusal:
        migrate(wrong)
    assert "s3cret" not in str(refusal.value)
