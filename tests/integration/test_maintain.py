"""Daily maintenance: months ahead, what is kept no longer, and yesterday's audit; whenever it is killed."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from psycopg import sql

from connectors.settings import Settings
from flows.audit import audit
from flows.maintenance import maintain
from tests.support.people import picture
from tests.support.programs import need_program
from tests.support.run import run
from tests.support.stack import connect

NOW = datetime(2026, 11, 25, 0, 30, tzinfo=UTC)
OLD, KEPT = date(2026, 6, 1), date(2026, 8, 1)
UNITS = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.fixture
def database(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings) as connection:
        yield connection


def event(database: psycopg.Connection, day: date, count: int = 3) -> None:
    """Events of a day, counted in its total."""
    database.execute("SELECT slate.ensure_month(%s)", (day,))
    database.execute(
        "INSERT INTO spark_events (session_id, type, ts, payload)"
        " SELECT 's', 't', %s::date::timestamp AT TIME ZONE 'UTC' + n * interval '1 hour', '{}'"
        " FROM generate_series(1, %s) AS n",
        (day, count),
    )
    database.execute(
        "INSERT INTO spark_events_daily VALUES (%s, 't', %s) ON CONFLICT (day, type)"
        " DO UPDATE SET event_count = spark_events_daily.event_count + excluded.event_count",
        (day, count),
    )


def tables(database: psycopg.Connection, schema: str) -> set[str]:
    rows = database.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = %s AND table_name LIKE 'spark_events_2%%'",
        (schema,),
    )
    return {name for (name,) in rows}


def texts(settings: Settings, **more: object) -> list[str]:
    return [step.text for step in maintain(settings.model_copy(update=more), NOW)]


def all_differences(settings: Settings) -> list[object]:
    return list(audit(settings, date(2026, 5, 25), date(2026, 9, 5)))


def test_months_ahead_are_made_and_a_second_run_finds_nothing_to_do(
    settings: Settings, database: psycopg.Connection
) -> None:
    for name in tables(database, "public"):
        database.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    made = [f"spark_events_{month}" for month in ("2026_11", "2026_12", "2027_01", "2027_02")]
    assert texts(settings)[0] == f"Made {', '.join(made)}"
    assert texts(settings) == ["Months: there for three months to come", "Audit of 2026-11-24: no difference"]


def test_months_are_kept_for_ever_unless_told_otherwise(settings: Settings, database: psycopg.Connection) -> None:
    event(database, date(2020, 1, 1))
    texts(settings)
    assert "spark_events_2020_01" in tables(database, "public")


@pytest.mark.parametrize("aside", [False, True], ids=["dropped", "put aside"])
def test_an_old_month_goes_its_totals_stay_and_no_audit_complains(
    settings: Settings, database: psycopg.Connection, aside: bool
) -> None:
    event(database, OLD)
    event(database, KEPT)
    said = texts(settings, retain_events_months=3, retain_detached=aside)
    assert any("spark_events_2026_06" in text for text in said)
    assert tables(database, "public") >= {"spark_events_2026_08"}
    assert "spark_events_2026_06" not in tables(database, "public")
    assert ("spark_events_2026_06" in tables(database, "slate")) is aside
    total = "SELECT event_count FROM spark_events_daily WHERE day = %s"
    assert database.execute(total, (OLD,)).fetchone() == (3,)
    assert all_differences(settings) == []
    assert list(audit(settings, OLD, OLD + timedelta(days=1), repair=True)) == []
    assert database.execute(total, (OLD,)).fetchone() == (3,)


@pytest.mark.parametrize("aside", [False, True], ids=["dropped", "put aside"])
def test_what_comes_late_for_a_month_that_is_gone_is_stored_and_goes_with_the_next_run(
    settings: Settings, database: psycopg.Connection, aside: bool
) -> None:
    event(database, OLD)
    texts(settings, retain_events_months=3, retain_detached=aside)
    event(database, OLD, 2)
    assert all_differences(settings) == []
    texts(settings, retain_events_months=3, retain_detached=aside)
    assert "spark_events_2026_06" not in tables(database, "public")
    if aside:
        assert database.execute("SELECT count(*) FROM slate.spark_events_2026_06").fetchone() == (5,)


def test_readers_and_writers_of_other_months_do_not_wait_while_a_month_goes(
    settings: Settings, database: psycopg.Connection
) -> None:
    event(database, OLD)
    with connect(settings) as reader, connect(settings) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM spark_events").fetchone()
        run_in_background = Thread(target=texts, args=(settings,), kwargs={"retain_events_months": 3})
        run_in_background.start()
        writer.execute("SET statement_timeout = '5s'")
        writer.execute("INSERT INTO spark_events (session_id, type, ts, payload) VALUES ('s', 't', %s, '{}')", (NOW,))
        writer.execute("SELECT count(*) FROM spark_events").fetchone()
        assert run_in_background.is_alive(), "it should wait for the reader"
        reader.execute("COMMIT")
        run_in_background.join(30)
        assert not run_in_background.is_alive()
    assert "spark_events_2026_06" not in tables(database, "public")


def test_a_run_that_was_killed_while_a_month_went_is_finished_by_the_next(
    settings: Settings, database: psycopg.Connection
) -> None:
    event(database, OLD)
    with connect(settings) as reader, connect(settings) as killed:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM spark_events").fetchone()
        killed.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            killed.execute("ALTER TABLE spark_events DETACH PARTITION spark_events_2026_06 CONCURRENTLY")
        reader.execute("COMMIT")
    pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
    assert database.execute(pending).fetchone() == (1,)
    texts(settings, retain_events_months=3)
    assert "spark_events_2026_06" not in tables(database, "public")
    event(database, date(2026, 7, 1))
    database.execute("INSERT INTO slate.dropped_months (month) VALUES ('2026-07-01')")
    database.execute("ALTER TABLE spark_events DETACH PARTITION spark_events_2026_07")  # and killed before the drop
    texts(settings, retain_events_months=3)
    assert "spark_events_2026_07" not in tables(database, "public")


def test_old_windows_and_dead_letters_are_deleted_where_told_and_no_others(
    settings: Settings, database: psycopg.Connection
) -> None:
    for days in (29, 31):
        database.execute(
            "INSERT INTO slate.windows (start, seconds, signal, key, status, count, tokens_prompt, tokens_completion,"
            " cost, bins, late) VALUES (%s, 60, 'events', 't', '', 1, 0, 0, 0, '{}', 0)",
            (NOW - timedelta(days=days),),
        )
        database.execute(
            "INSERT INTO slate.dead_letters (received_at, stage, code, reason, subject, stream, partition, seq,"
            " stored_at, payload, headers) VALUES (%s, 'decode', 'c', 'r', 's', 'S', 0, 1, %s, '', '')",
            (NOW - timedelta(days=days), NOW),
        )
    assert any("Deleted 1 windows" in text for text in texts(settings))
    assert database.execute("SELECT count(*) FROM slate.windows").fetchone() == (1,)
    assert database.execute("SELECT count(*) FROM slate.dead_letters").fetchone() == (2,)
    texts(settings, retain_dead_letters_days=30)
    assert database.execute("SELECT count(*) FROM slate.dead_letters").fetchone() == (1,)


def test_of_two_runs_at_once_one_says_that_the_other_does_it(settings: Settings) -> None:
    first = maintain(settings, NOW)
    next(first)
    assert texts(settings) == ["Another run is under way, and does it"]
    assert list(first)
    assert len(texts(settings)) > 1


def test_yesterdays_differences_are_told_and_the_exit_code_says_so(
    settings: Settings, database: psycopg.Connection
) -> None:
    database.execute("INSERT INTO spark_events_daily VALUES ('2026-11-24', 'never_happened', 1)")
    last = list(maintain(settings, NOW))[-1]
    assert not last.well
    assert "1 totals differ; `slate audit --repair`" in last.text


@pytest.mark.parametrize("unit", ["slate-maintain.service", "slate-maintain.timer"])
def test_the_units_are_what_systemd_understands(unit: str, tmp_path: Path) -> None:
    program = need_program("systemd-analyze", "systemd")
    text = (UNITS / unit).read_text().replace("/opt/slate/.venv/bin/slate", "/bin/true")
    for other in UNITS.iterdir():
        (tmp_path / other.name).write_text(text if other.name == unit else other.read_text())
    result = run([program, "verify", "--man=no", str(tmp_path / unit)])
    assert unit not in result.stderr, result.stderr
    if unit.endswith(".service"):
        command: list[str | Path] = [program, "security", "--offline=true", "--threshold=20", str(tmp_path / unit)]
        assert run(command).returncode == 0, run(command).stdout


def test_the_airflow_dag_keeps_the_password_out_of_command_lines() -> None:
    text = (UNITS.parent / "airflow" / "spark_partitions_and_rollups.py").read_text()
    assert 'dag_id="spark_partitions_and_rollups"' in text
    assert 'CONNECTION = "spark_pg_primary"' in text
    (command,) = [line for line in text.splitlines() if "subprocess.run(" in line]
    assert "password" not in command


def test_what_users_made_is_kept_for_so_long_only_and_totals_stay_right(
    settings: Settings, database: psycopg.Connection, tmp_path: Path
) -> None:
    old, young = (picture(tmp_path / "frames", name) for name in (b"old", b"young"))
    shared = picture(tmp_path / "frames", b"shared")
    for at, frames in (("2026-11-01", (old, shared)), ("2026-11-20", (young, shared))):
        for frame in frames:
            database.execute(
                "INSERT INTO spark_previews (session_id, engine, ts, status, frame_ref)"
                " VALUES ('s', 'unity', %s, 'ready', %s)",
                (at, frame),
            )
        database.execute("INSERT INTO spark_telemetry (session_id, kind, ts, data) VALUES ('s', 'k', %s, '{}')", (at,))
        database.execute(
            "INSERT INTO spark_generated_scripts (session_id, script_name, script_content, created_at)"
            " VALUES ('s', 'n', 'c', %s)",
            (at,),
        )
        database.execute("INSERT INTO spark_build_jobs VALUES (%s, 's', NULL, 'failed', %s, %s, %s)", (at,) * 4)
    frames_url = (tmp_path / "frames").as_uri()
    assert len(texts(settings, frames_url=frames_url)) == 2
    said = texts(settings, frames_url=frames_url, retain_content_days=10)
    assert "Deleted 2 previews older than 10 days, and 1 pictures" in said
    for table, left in (("telemetry", 1), ("generated_scripts", 1), ("build_jobs", 1), ("previews", 2)):
        assert database.execute(f"SELECT count(*) FROM spark_{table}".encode()).fetchone() == (left,), table
    kept = {str(path.relative_to(tmp_path / "frames")) for path in (tmp_path / "frames").rglob("*.png")}
    assert kept == {young, shared}
    assert len(texts(settings, frames_url=frames_url, retain_content_days=10)) == 2
