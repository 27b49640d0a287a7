"""Whatever comes, PostgreSQL holds each message as exactly one of stored, duplicate and dead letter.

Batches go to a real database through the writer, as a worker hands them over, without a stream in between.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.postgres import Progress
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState
from connectors.writer import Stored, Writer
from flows.rows import TABLES
from flows.validate import refused_by_store, validate
from tests.support.messages import STREAM, message
from tests.support.stack import Stack, connect
from tests.support.strategies import messages

PARTITIONS = 4
CREATED = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = [table.name for table in TABLES]

numbers = count(1)


class Account(NamedTuple):
    """The ledger's columns, summed over the partitions."""

    read: int
    stored: int
    duplicate: int
    dead: int


class Ingest:
    """A writer on a database of the module's own, and what its tables say."""

    def __init__(self, writer: Writer, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection
        self._writer = writer
        self._positions = [0] * PARTITIONS
        self._sequence = 0

    def batch(self, partition: int, those: Iterable[NatsSourceMessage]) -> NatsBatch:
        """Messages as the next that a partition holds; the stream has others in between."""
        placed = []
        for one in those:
            self._sequence += 3
            placed.append(msgspec.structs.replace(one, sequence=self._sequence))
        self._sequence += 1
        batch = NatsBatch(STREAM, partition, self._positions[partition], self._sequence, placed)
        self._positions[partition] = self._sequence
        return batch

    def write(self, batches: Sequence[NatsBatch]) -> list[Stored]:
        """Write them in one group, as the sink does under load."""
        return self._writer.write([validate(batch) for batch in batches])

    def one(self, query: str, *parameters: object) -> Any:
        row = self.connection.execute(query, parameters).fetchone()
        assert row is not None
        return row[0]

    def account(self) -> Account:
        row = self.connection.execute(
            "SELECT sum(read)::int, sum(stored)::int, sum(duplicate)::int, sum(dead_lettered)::int FROM slate.ledger"
        ).fetchone()
        assert row is not None
        return Account(*row)

    def rows(self) -> Counter[str]:
        return Counter({table: self.one(f"SELECT count(*) FROM {table}") for table in ROWS})

    def letters(self, batches: Iterable[NatsBatch]) -> list[tuple[Any, ...]]:
        """Sequence, subject, payload, headers, stage, code and element of the dead letters of these batches."""
        sequences = [one.sequence for batch in batches for one in batch.messages]
        return self.connection.execute(
            "SELECT seq, subject, payload, headers, stage, code, element FROM slate.dead_letters"
            " WHERE seq = ANY(%s) ORDER BY seq, element",
            (sequences,),
        ).fetchall()

    def transactions(self) -> int:
        """Number of transactions so far that wrote something, aborted ones included."""
        return int(self.one("SELECT pg_current_xact_id()::text"))


@pytest.fixture(scope="module")
def ingest(stack: Stack) -> Iterator[Ingest]:
    with stack.provide() as settings, connect(settings) as connection:
        for partition in range(PARTITIONS):
            Progress(settings).start(partition, StreamState(STREAM, CREATED, 1, 0))
        with closing(Writer(settings, TABLES, validate, refused_by_store, Shutdown())) as writer:
            yield Ingest(writer, connection)


@contextmanager
def constraint(ingest: Ingest, table: str, condition: str) -> Iterator[None]:
    """While the body runs, PostgreSQL refuses what the validation lets pass."""
    ingest.connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT no_poison CHECK ({condition}) NOT VALID")
    try:
        yield
    finally:
        ingest.connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT no_poison")


def usage(model: str, **fields: object) -> NatsSourceMessage:
    return message("spark.usage.s", {"model": model, **fields})


parts = st.tuples(st.integers(0, PARTITIONS - 1), st.lists(messages, min_size=10, max_size=50))
groups = st.lists(parts, min_size=1, max_size=5).map(
    lambda group: sorted(group, key=lambda one: one[0])  # batches of a partition are consecutive
)


@settings(max_examples=40, deadline=None)
@given(groups)
def test_any_bytes_on_any_subject_are_stored_a_duplicate_or_a_dead_letter(
    ingest: Ingest, group: list[tuple[int, list[NatsSourceMessage]]]
) -> None:
    unique = [f"{next(numbers)}-of-the-property" for _ in group]
    before, rows = ingest.account(), ingest.rows()
    batches = [
        ingest.batch(partition, [usage(name), *those, usage(name, eventId=name), usage(name, eventId=name)])
        for (partition, those), name in zip(group, unique, strict=True)
    ]
    told = ingest.write(batches)
    after = ingest.account()
    total = sum(len(batch.messages) for batch in batches)
    assert after.read - before.read == total
    assert after.stored + after.duplicate + after.dead == after.read
    # The three that are known to be good: twice stored, once a duplicate.
    for name in unique:
        assert ingest.one("SELECT count(*) FROM spark_usage WHERE model = %s", name) == 2
    assert after.duplicate - before.duplicate >= len(group)
    # A dead letter is its message, byte for byte, and no message has two of them.
    found = ingest.letters(batches)
    originals = {one.sequence: one for batch in batches for one in batch.messages}
    whole = [letter for letter in found if letter[6] is None]
    assert len({letter[0] for letter in whole}) == len(whole)
    for sequence, subject, payload, headers, stage, code, _ in whole:
        one = originals[sequence]
        assert (subject, payload, headers) == (one.subject.replace("\0", "\\0"), one.payload, one.headers)
        assert stage
        assert code
    assert len(whole) <= after.dead - before.dead <= len({letter[0] for letter in found})
    assert sorted((letter.message.sequence, letter.element or 0) for _, letter in told) == sorted(
        (letter[0], letter[6] or 0) for letter in found
    )
    assert (ingest.rows() > rows) is (after.stored > before.stored)


@settings(max_examples=15, deadline=None)
@given(st.lists(messages, max_size=100))
def test_what_is_delivered_again_stores_only_what_nothing_identifies(
    ingest: Ingest, those: list[NatsSourceMessage]
) -> None:
    first = ingest.batch(0, those)
    unnamed = validate(NatsBatch(STREAM, 0, first.after, first.position, first.messages))
    ingest.write([first])
    before, rows = ingest.account(), ingest.rows()
    ingest.write([ingest.batch(1, those)])
    after = ingest.account()
    positions = {table: sum(row[0] is None for row in found) for table, found in unnamed.rows.items()}
    assert after.stored - before.stored <= sum(positions.values())
    grown = ingest.rows() - rows
    assert all(grown[table] <= positions.get(table, 0) for table in ROWS)
    assert len(ingest.letters([first])) == len(unnamed.dead)


@pytest.mark.parametrize("batches", [1, 5])
@settings(max_examples=12, deadline=None)
@given(poison=st.sets(st.integers(0, 499), min_size=1, max_size=8))
def test_rows_that_postgresql_refuses_become_dead_letters_alone(ingest: Ingest, batches: int, poison: set[int]) -> None:
    name = f"good-{next(numbers)}"
    those = [usage("poison" if number in poison else name, tokensPrompt=number) for number in range(500)]
    size = 500 // batches
    parts = [ingest.batch(number % PARTITIONS, those[number * size :][:size]) for number in range(batches)]
    parts.sort(key=lambda part: part.partition)
    before = ingest.account()
    with constraint(ingest, "spark_usage", "model <> 'poison'"):
        started = ingest.transactions()
        told = ingest.write(parts)
        spent = ingest.transactions() - started
    assert ingest.account() == (
        *(before.read + 500, before.stored + 500 - len(poison)),
        *(before.duplicate, before.dead + len(poison)),
    )
    stored = ingest.connection.execute("SELECT tokens_prompt FROM spark_usage WHERE model = %s", (name,)).fetchall()
    assert sorted(stored) == [(number,) for number in range(500) if number not in poison]
    found = ingest.letters(parts)
    assert Counter((stage, code) for *_, stage, code, _ in found) == {("store", "23514"): len(poison)}
    assert sorted(msgspec.json.decode(payload)["tokensPrompt"] for _, _, payload, *_ in found) == sorted(poison)
    assert all("no_poison" in letter.reason for _, letter in told)
    assert sorted(letter.message.sequence for _, letter in told) == [letter[0] for letter in found]
    # Each halving on the way to a poison row costs two failures and one success; the slack is the server's own.
    levels = math.ceil(math.log2(500)) + 2
    assert spent <= 3 * levels * len(poison) + 10


def test_a_poison_row_in_any_table_spares_all_others(ingest: Ingest) -> None:
    subjects: dict[str, tuple[str, dict[str, object]]] = {
        "spark_sessions": ("spark.session.connected.{sid}", {}),
        "spark_events": ("spark.presence.{sid}", {"type": "t"}),
        "spark_function_calls": ("spark.function_call.{sid}", {"callId": "c", "name": "n", "status": "failed"}),
        "spark_telemetry": ("spark.telemetry.{sid}", {"kind": "k", "data": {}}),
        "spark_usage": ("spark.usage.{sid}", {"model": "m"}),
        "spark_previews": ("spark.preview.unity.x.{sid}", {"type": "preview.frame"}),
        "spark_generated_scripts": (
            "spark.runtime.unity.x.{sid}",
            {"type": "t", "scriptName": "s", "scriptContent": "c"},
        ),
        "spark_build_jobs": ("spark.build.unity.failed.{sid}", {"jobId": "j"}),
    }
    assert sorted(subjects) == sorted(ROWS)
    for poisoned in subjects:
        names = {table: f"{poisoned}-{next(numbers)}" for table in subjects}
        those = [
            message(subject.format(sid="poison" if table == poisoned and number == 7 else names[table]), fields | own)
            for number in range(20)
            for table, (subject, fields) in subjects.items()
            for own in [{"eventId": f"{names[table]}-{number}", "callId": str(number), "jobId": f"{poisoned}-{number}"}]
        ]
        with constraint(ingest, poisoned, "session_id <> 'poison'"):
            before = ingest.account()
            batch = ingest.batch(0, those)
            ingest.write([batch])
        after = ingest.account()
        assert (after.stored - before.stored, after.duplicate - before.duplicate) == (len(those) - 1, 0)
        (letter,) = ingest.letters([batch])
        assert letter[1].endswith(".poison")
        for table in ROWS:
            assert ingest.one(f"SELECT count(*) FROM {table} WHERE session_id = 'poison'") == 0


def test_an_event_that_repeats_a_refused_one_is_judged_for_itself(ingest: Ingest) -> None:
    name = f"repeated-{next(numbers)}"
    poison, good = usage("poison", eventId=name), usage(name, eventId=name)
    with constraint(ingest, "spark_usage", "model <> 'poison'"):
        before = ingest.account()
        batches = [ingest.batch(0, [poison, poison]), ingest.batch(1, [poison]), ingest.batch(2, [good, good])]
        ingest.write(batches)
    after = ingest.account()
    assert (after.stored - before.stored, after.duplicate - before.duplicate, after.dead - before.dead) == (1, 1, 3)
    assert ingest.one("SELECT count(*) FROM spark_usage WHERE model = %s", name) == 1


def test_a_refused_event_claims_no_identity_and_can_come_back(ingest: Ingest) -> None:
    poison = usage("poison", eventId=f"back-{next(numbers)}")
    with constraint(ingest, "spark_usage", "model <> 'poison'"):
        first = ingest.batch(0, [poison])
        ingest.write([first])
    assert len(ingest.letters([first])) == 1
    before = ingest.account()
    ingest.write([ingest.batch(0, [poison, poison])])
    after = ingest.account()
    assert (after.stored - before.stored, after.duplicate - before.duplicate) == (1, 1)
    ingest.connection.execute("DELETE FROM spark_usage WHERE model = 'poison'")


def test_a_telemetry_batch_of_which_postgresql_refuses_an_element_is_kept_whole(ingest: Ingest) -> None:
    name = f"element-{next(numbers)}"
    elements = [{"kind": name, "data": {}}, {"kind": "poison", "data": {}}]
    with constraint(ingest, "spark_telemetry", "kind <> 'poison'"):
        before = ingest.account()
        batch = ingest.batch(0, [message("spark.telemetry.batch.s", {"events": elements}), usage(name)])
        ingest.write([batch])
    after = ingest.account()
    assert (after.stored - before.stored, after.dead - before.dead) == (1, 1)
    assert ingest.one("SELECT count(*) FROM spark_telemetry WHERE kind = %s", name) == 0
    (letter,) = ingest.letters([batch])
    assert msgspec.json.decode(letter[2])["events"] == elements


def test_an_idle_partition_moves_on_without_a_message(ingest: Ingest) -> None:
    before = ingest.account()
    idle = ingest.batch(3, [])
    ingest.write([idle])
    assert ingest.account() == before
    assert ingest.one("SELECT seq FROM slate.ledger WHERE partition = 3") == idle.position
