"""How rows of a table are written: one statement over one array per column."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from connectors.arrays import ColumnType, PgArray
from connectors.sql import read

_DAY_US: Final = 86_400_000_000

Row = tuple[Any, ...]


class Table:
    """A table's insert statement (`sql/ingest/<name>.sql`) and the columns that its rows bring.

    Args:
        name: the table; its statement takes one array for each of `columns`, by name.
        columns: in the order of the rows, which have one element more in front: their event's identity.
        key: for an upsert, what identifies a row; a statement may not touch a row twice, so rows with the same
            key go in turns.
        shared: whether messages of several partitions write the same row.
        month_of: the column whose month decides the partition of the table, for one that has some.
    """

    def __init__(
        self,
        name: str,
        columns: dict[str, ColumnType],
        *,
        key: Callable[[Row], Any] | None = None,
        shared: bool = False,
        month_of: str | None = None,
    ) -> None:
        self.name = name
        self.sql = read(f"ingest/{name}.sql")
        self._columns = tuple(columns.items())
        self._key = key
        self._shared = shared
        self._month_at = None if month_of is None else 1 + list(columns).index(month_of)

    def days(self, rows: Sequence[Row]) -> set[int]:
        """Days (since 1970, UTC) whose month must have a partition before these rows can be written."""
        at = self._month_at
        return set() if at is None else {row[at] // _DAY_US for row in rows}

    def parameters(self, rows: Sequence[Row]) -> dict[str, PgArray]:
        """The statement's arguments for these rows."""
        values = list(zip(*rows, strict=True))[1:]
        return {name: kind.array(column) for (name, kind), column in zip(self._columns, values, strict=True)}

    def turns(self, rows: list[Row]) -> list[list[Row]]:
        """The rows in as few lists as hold no key twice; the order of equal keys is kept.

        Where other workers may write the same rows, keys are sorted: they wait for each other and do not deadlock.
        """
        key = self._key
        if key is None:
            return [rows]
        unique = len(set(map(key, rows))) == len(rows)
        if unique and not self._shared:
            return [rows]
        rows = sorted(rows, key=key)
        if unique:
            return [rows]
        turns: list[list[Row]] = []
        last = turn = None
        for row in rows:
            this = key(row)
            turn = turn + 1 if this == last and turn is not None else 0
            last = this
            if turn == len(turns):
                turns.append([])
            turns[turn].append(row)
        return turns
