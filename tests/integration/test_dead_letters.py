"""A dead letter comes back: after a fix its replay stores it once, with its identity and its time."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from typer.testing import CliRunner, Result

from connectors.publisher import Publisher
from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import environment_of
from tests.support.stack import connect
from tests.support.waiting import eventually
from tests.support.worker import Worker

Slate = Callable[..., Result]
POISON = "ALTER TABLE spark_usage ADD CONSTRAINT no_poison CHECK (model <> 'poison') NOT VALID"
CURE = "ALTER TABLE spark_usage DROP CONSTRAINT no_poison"


@pytest.fixture
def slate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Slate:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["dead-letters", *arguments])

    return run


def publish(settings: Settings, payloads: list[bytes], subject: str = "spark.usage.s") -> None:
    async def send() -> None:
        async with await Publisher.connect(settings) as publisher:
            for number, payload in enumerate(payloads):
                await publisher.publish(subject, payload, msg_id=f"{subject}-{number}")

    asyncio.run(send())


def one(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_a_letter_that_postgres_refused_is_stored_once_after_the_fix_however_often_it_is_replayed(
    settings: Settings, slate: Slate
) -> None:
    with connect(settings) as connection, Worker(settings):
        connection.execute(POISON)
        publish(settings, [b'{"model":"poison"}', b'{"model":"good"}'])
        eventually(lambda: one(connection, "SELECT count(*) FROM slate.dead_letters") == 1, 20)
        eventually(lambda: one(connection, "SELECT count(*) FROM spark_usage") == 1, 20)
        listed = slate("list", "--stage", "store", "--reason", "no_poison")
        assert listed.exit_code == 0, listed.output
        assert "spark.usage.s" in listed.output
        shown = slate("show", "1")
        assert '{"model":"poison"}' in shown.output

        dry = slate("replay", "--all", "--dry-run")
        assert "stored" in dry.output
        assert one(connection, "SELECT count(*) FROM slate.dead_letters WHERE replayed_at IS NOT NULL") == 0

        again = slate("replay", "--all")  # nothing is mended yet
        assert again.exit_code == 0, again.output
        eventually(lambda: one(connection, "SELECT count(*) FROM slate.dead_letters") == 2, 20)

        connection.execute(CURE)
        replayed = slate("replay", "--all")
        assert "1 published again and marked" in replayed.output
        eventually(lambda: one(connection, "SELECT count(*) FROM spark_usage WHERE model = 'poison'") == 1, 20)
        assert "No dead letters." in slate("list").output
        slate("replay", "--all", "--replayed")  # JetStream itself drops what came within two minutes
        publish(settings, [b'{"model":"poison","eventId":"spark.usage.s-0"}'], "spark.usage.late")
        publish(settings, [b'{"model":"last"}'], "spark.usage.last")
        eventually(lambda: one(connection, "SELECT count(*) FROM spark_usage WHERE model = 'last'") == 1, 20)
        assert one(connection, "SELECT count(*) FROM spark_usage WHERE model = 'poison'") == 1


def test_a_letter_without_a_time_of_its_own_keeps_the_time_of_its_first_arrival_through_two_replays(
    settings: Settings, slate: Slate
) -> None:
    with connect(settings) as connection, Worker(settings):
        connection.execute(POISON)
        publish(settings, [b'{"model":"poison"}'])
        eventually(lambda: one(connection, "SELECT count(*) FROM slate.dead_letters") == 1, 20)
        row = connection.execute("SELECT date_trunc('milliseconds', stored_at) FROM slate.dead_letters").fetchone()
        slate("replay", "--all")
        eventually(lambda: one(connection, "SELECT count(*) FROM slate.dead_letters") == 2, 20)
        connection.execute(CURE)
        slate("replay", "--all")
        eventually(lambda: one(connection, "SELECT count(*) FROM spark_usage") == 1, 20)
        assert connection.execute("SELECT ts FROM spark_usage").fetchone() == row
        assert row
        assert row[0] < datetime.now(UTC)


def test_what_names_no_letters_is_refused_with_the_remedy(slate: Slate) -> None:
    result = slate("replay")
    assert result.exit_code == 2
    assert "--all" in result.output
