"""How rows of a table are brought into statements."""

import re
from collections.abc import Hashable, Iterable
from contextlib import suppress
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.arrays import INTEGER, LABEL, TEXT, PgArray
from connectors.tables import Row, Table
from flows.rows import TABLES

SESSIONS, CALLS, JOBS, USAGE = (
    next(table for table in TABLES if table.name == name)
    for name in ("spark_sessions", "spark_function_calls", "spark_build_jobs", "spark_usage")
)
UPSERTS = pytest.mark.parametrize(
    ("table", "key"),
    [(SESSIONS, itemgetter(1)), (CALLS, itemgetter(1, 2)), (JOBS, itemgetter(1))],
    ids=["sessions", "calls", "build jobs"],
)
names = st.sampled_from(["a", "b", "c", "Ü", "語"])


def numbered(keys: Iterable[tuple[str, str]]) -> list[Row]:
    """Rows with these keys; their identity says in which order they came."""
    return [(number, *key) for number, key in enumerate(keys)]


@UPSERTS
@given(st.lists(st.tuples(names, names)))
def test_turns_hold_every_row_once_no_key_twice_and_equal_keys_in_order(
    table: Table, key: Any, keys: list[tuple[str, str]]
) -> None:
    rows = numbered(keys)
    turns = table.turns(rows)
    assert sorted(row for turn in turns for row in turn) == rows
    order: dict[Hashable, list[int]] = {}
    for turn in turns:
        assert len({key(row) for row in turn}) == len(turn)
        for row in turn:
            order.setdefault(key(row), []).append(row[0])
    assert all(numbers == sorted(numbers) for numbers in order.values())


@UPSERTS
@given(st.lists(st.tuples(names, names), min_size=1))
def test_there_are_as_few_turns_as_the_most_frequent_key_needs(
    table: Table, key: Any, keys: list[tuple[str, str]]
) -> None:
    rows = numbered(keys)
    found = [key(row) for row in rows]
    assert len(table.turns(rows)) == max(found.count(one) for one in found)


@pytest.mark.parametrize("table", [SESSIONS, JOBS], ids=["sessions", "build jobs"])
@given(keys=st.lists(st.tuples(names, names), min_size=1))
def test_rows_that_several_workers_write_are_locked_in_one_order(table: Table, keys: list[tuple[str, str]]) -> None:
    for turn in table.turns(numbered(keys)):
        assert [row[1] for row in turn] == sorted(row[1] for row in turn)


@given(st.lists(st.tuples(names, names)))
def test_rows_of_a_table_that_is_only_appended_to_go_at_once(keys: list[tuple[str, str]]) -> None:
    rows = numbered(keys)
    assert USAGE.turns(rows) == [rows]


def test_parameters_are_one_array_per_column_without_the_identity() -> None:
    table = Table("spark_usage", {"session_id": LABEL, "model": TEXT, "tokens_prompt": INTEGER})
    parameters = table.parameters([(b"key", "s-1", "m", 1), (None, "s-2", "n", None)])
    assert {name: value.data for name, value in parameters.items()} == {
        "session_id": LABEL.array(["s-1", "s-2"]).data,
        "model": TEXT.array(["m", "n"]).data,
        "tokens_prompt": INTEGER.array([1, None]).data,
    }
    assert all(isinstance(value, PgArray) for value in parameters.values())


def test_a_row_of_another_width_is_never_written_shifted() -> None:
    table = Table("spark_usage", {"session_id": LABEL, "model": TEXT})
    with pytest.raises(ValueError, match="zip"):
        table.parameters([(None, "s", "m", 1)])
    with pytest.raises(ValueError, match="zip"):
        table.parameters([(None, "s", "m"), (None, "s")])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_statement_takes_the_columns_that_its_rows_bring(table: Table) -> None:
    assert sorted(re.findall(r"%\((\w+)\)b::", table.sql)) == sorted(_parameters(table))


def _parameters(table: Table) -> dict[str, PgArray]:
    """The parameters of a row of as many NULLs as the table takes."""
    for width in range(1, 40):
        with suppress(ValueError):
            return table.parameters([(None,) * width])
    raise AssertionError(f"{table.name} takes no row")
