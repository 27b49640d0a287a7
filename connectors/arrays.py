"""PostgreSQL arrays in binary, a whole column at a time.

The format is that of `array_send` in PostgreSQL's `src/backend/utils/adt/arrayfuncs.c`: dimensions, null flag,
element type, length, lower bound, then each element with its length in front. A list that psycopg adapts element
by element costs about three times as much (`docs/performance.md`).
"""

from collections.abc import Callable, Sequence
from itertools import chain
from struct import Struct
from typing import Any, Final

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_HEADER: Final = Struct(">iiIii").pack
_length: Final = Struct(">i").pack
_int4: Final = Struct(">ii").pack
_int8: Final = Struct(">iq").pack
_NULL: Final = b"\xff\xff\xff\xff"
_POSTGRES_EPOCH: Final = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970
_POSTGRES_EPOCH_DAY: Final = 10_957  # and in days
_UUID_LENGTH: Final = _length(16)
_MAX_LABELS: Final = 100_000

Encode = Callable[[Sequence[Any]], bytes]


class PgArray:
    """An array parameter that is in PostgreSQL's binary form already; the statement's cast names its type."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _PgArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0

    def dump(self, obj: PgArray) -> bytes:
        return obj.data


def register(adapters: AdaptersMap) -> None:
    """Let a connection take `PgArray` parameters."""
    adapters.register_dumper(PgArray, _PgArrayDumper)


class ColumnType:
    """Encodes a column of values, None for NULL, as an array of one PostgreSQL type."""

    def __init__(self, name: str, oid: int, elements: Encode) -> None:
        self.name = name
        self._oid = oid
        self._elements = elements

    def array(self, values: Sequence[Any]) -> PgArray:
        """A column as a parameter. One of NULLs only is sent empty: `unnest` pads it."""
        count = len(values)
        nulls = values.count(None)
        if nulls == count:
            return PgArray(_HEADER(0, 0, self._oid, 0, 1)[:12])
        return PgArray(_HEADER(1, 1 if nulls else 0, self._oid, count, 1) + self._elements(values))


class _Labels(dict[str | None, bytes]):
    """Encoded texts that come again and again: session ids, names, models."""

    def __missing__(self, text: str | None) -> bytes:
        if len(self) >= _MAX_LABELS:
            self.clear()
        data = (text or "").encode()
        encoded = _NULL if text is None else _length(len(data)) + data
        self[text] = encoded
        return encoded


_labels = _Labels()


def _label_elements(values: Sequence[str | None]) -> bytes:
    return b"".join(map(_labels.__getitem__, values))


def _text_elements(values: Sequence[str | None]) -> bytes:
    return _bytes_elements([None if text is None else text.encode() for text in values])


def _bytes_elements(values: Sequence[bytes | None]) -> bytes:
    if None in values:
        return b"".join([_NULL if data is None else _length(len(data)) + data for data in values])
    return b"".join(chain.from_iterable(zip(map(_length, map(len, values)), values, strict=True)))  # type: ignore[arg-type]


def _int4_elements(values: Sequence[int | None]) -> bytes:
    return b"".join([_NULL if number is None else _int4(4, number) for number in values])


def _int8_elements(values: Sequence[int | None]) -> bytes:
    return b"".join([_NULL if number is None else _int8(8, number) for number in values])


def _timestamp_elements(values: Sequence[int | None]) -> bytes:
    return b"".join([_NULL if us is None else _int8(8, us - _POSTGRES_EPOCH) for us in values])


def _date_elements(values: Sequence[int | None]) -> bytes:
    return b"".join([_NULL if day is None else _int4(4, day - _POSTGRES_EPOCH_DAY) for day in values])


def _uuid_elements(values: Sequence[bytes | None]) -> bytes:
    return b"".join([_NULL if data is None else _UUID_LENGTH + data for data in values])


TEXT: Final = ColumnType("text", 25, _text_elements)
"""Text that seldom comes twice, as `str`."""
LABEL: Final = ColumnType("text", 25, _label_elements)
"""Text that comes again and again, as `str`."""
JSON: Final = ColumnType("text", 25, _bytes_elements)
"""JSON as UTF-8 bytes; the statement casts it to jsonb."""
BYTEA: Final = ColumnType("bytea", 17, _bytes_elements)
INTEGER: Final = ColumnType("integer", 23, _int4_elements)
BIGINT: Final = ColumnType("bigint", 20, _int8_elements)
TIMESTAMP: Final = ColumnType("timestamptz", 1184, _timestamp_elements)
"""Microseconds since 1970, UTC."""
DATE: Final = ColumnType("date", 1082, _date_elements)
"""Days since 1970."""
UUID: Final = ColumnType("uuid", 2950, _uuid_elements)
"""Sixteen bytes."""
