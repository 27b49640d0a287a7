"""Percentiles in SQL are those of the DDSketch library, and right to 1 %."""

from collections import Counter
from collections.abc import Iterator

import msgspec
import psycopg
import pytest
from ddsketch import DDSketch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.fold import RELATIVE_ACCURACY, bin_of, micros
from tests.support.stack import Stack, connect

durations = st.integers(0, 2**31 - 1) | st.integers(0, 5000)


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[psycopg.Connection]:
    with stack.provide() as found, connect(found) as connection:
        yield connection


def test_python_and_sql_put_a_duration_into_the_same_bin(database: psycopg.Connection) -> None:
    values = [*range(20_000), *(2**n + step for n in range(14, 31) for step in (-1, 0, 1)), 2**31 - 1]
    rows = database.execute("SELECT ms, slate.bin(ms) FROM unnest(%s::bigint[]) AS ms", (values,)).fetchall()
    assert [(ms, place) for ms, place in rows if place != bin_of(ms)] == []


@settings(max_examples=80, deadline=None)
@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_that_of_the_library_and_right_to_1_percent(
    database: psycopg.Connection, values: list[int], share: float
) -> None:
    bins = msgspec.json.encode(dict(Counter(map(bin_of, values)))).decode()
    row = database.execute("SELECT slate.quantile(%s::jsonb, %s)", (bins, share)).fetchone()
    assert row is not None
    sketch = DDSketch(RELATIVE_ACCURACY)
    for value in values:
        sketch.add(value)
    assert row[0] == pytest.approx(sketch.get_quantile_value(share), rel=1e-9)
    exact = sorted(values)[int(share * (len(values) - 1))]
    assert row[0] == pytest.approx(exact, rel=RELATIVE_ACCURACY * 1.001)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.integers(-1, 9).map(str), st.integers(-3, 3)), max_size=4))
def test_histograms_add_up_and_bins_that_come_to_nothing_are_gone(
    database: psycopg.Connection, parts: list[dict[str, int]]
) -> None:
    parts = [{place: count for place, count in part.items() if count} for part in parts]
    texts = [msgspec.json.encode(part).decode() for part in parts]
    row = database.execute("SELECT slate.sum_bins(part) FROM unnest(%s::jsonb[]) AS part", (texts,)).fetchone()
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    assert row == ({place: count for place, count in total.items() if count},)


def test_an_empty_histogram_has_no_quantile(database: psycopg.Connection) -> None:
    assert database.execute("SELECT slate.quantile('{}', 0.5)").fetchone() in ((None,), None)


@given(st.decimals(0, 999_999, allow_nan=False, allow_infinity=False, places=9).map(str))
def test_a_cost_is_rounded_as_its_column_rounds(database: psycopg.Connection, cost: str) -> None:
    row = database.execute("SELECT (%s::numeric(12,6) * 1000000)::bigint", (cost,)).fetchone()
    assert row == (micros(cost),)
