"""Every row of the wire contract, published by a client that is not ours and read back from PostgreSQL."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.settings import Settings
from tests.acceptance import contract_rules, contract_subjects
from tests.acceptance.contract import READS, STREAM, Case, JustNow, Message
from tests.support.npm import installed
from tests.support.roles import acting
from tests.support.stack import Stack, connect
from tests.support.waiting import eventually
from tests.support.worker import Worker

CASES = [*contract_subjects.CASES, *contract_rules.CASES]
UNDELIVERED = {
    "subject": "spark.usage.undelivered",
    "payload": {"sessionId": "undelivered", "model": "m"},
    "error": "TIMEOUT",
    "timestamp": 1_741_964_966_535,
}
ONE_IDENTITY = [
    Message(subject, {"model": "m", "kind": "k", "data": {}, "eventId": "identity-anywhere"})
    for subject in ("spark.usage", "spark.telemetry")
]
BESIDES = [
    ("one-identity", ONE_IDENTITY),
    ("", [Message("spark.dlq", UNDELIVERED, whole=True), Message("spark.dlq", b"anything\0", whole=True)]),
]
"""What no case can say: which of two rows an identity is stored as, and messages without a session."""


@pytest.fixture(scope="module")
def publish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """publish.mjs with its packages installed."""
    return installed(tmp_path_factory.mktemp("npm")) / "publish.mjs"


@pytest.fixture(scope="module")
def published(
    stack: Stack, publish: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, list[dict[str, Any]]]]:
    """Settings of a database that holds all cases, and what JetStream answered to each publication."""
    with stack.provide(stream=STREAM) as settings:
        told = acting(settings, "publisher")
        everything = [(case.name, case.messages) for case in CASES] + BESIDES
        done = subprocess.run(
            ["node", publish],
            input="\n".join(json.dumps(message.line(name)) for name, messages in everything for message in messages),
            env={"PATH": os.environ["PATH"], "NATS_INBOX": told.nats_inbox, "NATS_URL": told.nats_servers()[0]}
            | ({"NODE_EXTRA_CA_CERTS": str(told.ca_file)} if told.ca_file else {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == sum(len(messages) for _, messages in everything)
        kept = len({answer["seq"] for answer in answers})

        def all_read() -> bool:
            with connect(settings) as connection:
                row = connection.execute("SELECT sum(read) FROM slate.ledger").fetchone()
            return row is not None and row[0] == kept

        with Worker(settings, directory=tmp_path_factory.mktemp("worker")) as worker:
            eventually(all_read, 30.0, what=f"{kept} messages are in the ledger")
            worker.terminate()
            assert worker.wait() == 0, worker.tail()
        yield settings, answers


@pytest.fixture(scope="module")
def database(published: tuple[Settings, list[dict[str, Any]]]) -> Iterator[psycopg.Connection]:
    with connect(published[0]) as connection:
        yield connection


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_message_lands_as_the_contract_says(database: psycopg.Connection, case: Case) -> None:
    expected = {table: getattr(case, table) for table in READS}
    found = {table: database.execute(query.encode(), {"sid": case.name}).fetchall() for table, query in READS.items()}
    assert found == expected


def test_an_identity_counts_once_whatever_the_subject(database: psycopg.Connection) -> None:
    (number,) = database.execute(
        """SELECT (SELECT count(*) FROM spark_usage WHERE session_id = 'one-identity')
                + (SELECT count(*) FROM spark_telemetry WHERE session_id = 'one-identity')"""
    ).fetchone() or (None,)
    assert number == 1


def test_what_publishers_could_not_deliver_is_kept_as_it_is_and_feeds_nothing(
    database: psycopg.Connection,
) -> None:
    letters = database.execute(
        "SELECT stage, reason, payload FROM slate.dead_letters WHERE subject = 'spark.dlq' ORDER BY payload"
    ).fetchall()
    assert [stage for stage, _, _ in letters] == ["publisher", "publisher"]
    assert letters[0][2] == b"anything\0"
    assert "TIMEOUT" in letters[1][1]
    assert json.loads(letters[1][2]) | {"sessionId": ""} == UNDELIVERED | {"sessionId": ""}
    rest = database.execute("SELECT 1 FROM spark_usage WHERE session_id = 'undelivered'").fetchall()
    assert rest == []


def test_a_dead_letter_is_the_message_as_it_came(
    published: tuple[Settings, list[dict[str, Any]]], database: psycopg.Connection
) -> None:
    number = [message for case in CASES for message in case.messages].index(_case("refused-not-json").messages[0])
    row = database.execute(
        "SELECT subject, stream, seq, stored_at, received_at, payload, replayed_at FROM slate.dead_letters"
        " WHERE subject = 'spark.usage.refused-not-json'"
    ).fetchone()
    sequence = published[1][number]["seq"]
    now = JustNow()
    assert row == ("spark.usage.refused-not-json", STREAM, sequence, now, now, b'{"model":', None)


def test_the_ledger_balances(published: tuple[Settings, list[dict[str, Any]]], database: psycopg.Connection) -> None:
    row = database.execute(
        "SELECT sum(read), sum(stored + duplicate + dead_lettered), sum(lost) FROM slate.ledger"
    ).fetchone()
    kept = len({answer["seq"] for answer in published[1]})
    assert row == (kept, kept, 0)


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
