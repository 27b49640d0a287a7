"""The rows of one user in PostgreSQL: which they are, how many, and their deletion.

Totals and windows lose what the rows had added to them in the transaction that deletes the rows, so that they equal
the tables at any moment. That is right for rows that are counted already: `flows.forget` sees to it.
"""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql

from connectors.link import Connection
from connectors.rollups import rebuild
from connectors.sql import read

PAGE: Final = 20_000
"""Rows that are looked at in one transaction."""
_TRIES: Final = 8
_UNCOUNTED: Final = "somebody is being forgotten, and nobody counts"

T = TypeVar("T")


class Table(NamedTuple):
    """A table with rows of users: whether it says whose they are beside the session, and the statement that deletes
    them between two ids, where it is not a plain one."""

    name: str
    has_user: bool = False
    statement: str | None = None


TABLES: Final = (
    Table("spark_events", has_user=True, statement="forget/events.sql"),
    Table("spark_function_calls", has_user=True, statement="forget/function_calls.sql"),
    Table("spark_usage", has_user=True, statement="forget/usage.sql"),
    Table("spark_telemetry"),
    Table("spark_previews"),
    Table("spark_generated_scripts"),
)
"""Those whose rows have ascending ids."""
SMALL: Final = ("spark_build_jobs", "spark_usage_daily", "spark_sessions")
"""Those with few rows of a session, and an index that finds them."""


class Position(NamedTuple):
    """Up to where a partition is stored and counted, and how many stored messages are not counted."""

    stored: int
    counted: int
    uncounted: int


class UserRows:
    """Not safe for threads.

    Args:
        connection: to the primary, in autocommit mode.
        stream: whose positions are looked at.
        user: whose rows.
        sessions: all rows of these are theirs, too; the caller may add to them.
    """

    def __init__(self, connection: Connection, stream: str, user: UUID, sessions: Collection[str]) -> None:
        self._connection = connection
        self._stream = stream
        self.user = user
        self.sessions = sessions

    # ---- which they are ----------------------------------------------------------------------------------------

    def announced(self) -> set[str]:
        """Sessions that say that they are theirs."""
        return self._texts("SELECT session_id FROM public.spark_sessions WHERE user_id = %(user)s")

    def remembered(self) -> set[str]:
        """Sessions that a run which was killed had found."""
        return self._texts("SELECT session_id FROM slate.forgetting WHERE user_id = %(user)s")

    def named(self) -> set[str]:
        """Sessions in which something names the user."""
        tables = [sql.Identifier("public", one.name) for one in TABLES if one.has_user]
        statement = sql.SQL("SELECT DISTINCT session_id FROM {} WHERE user_id = %(user)s")
        return set().union(*(self._texts(statement.format(table)) for table in [*tables, *self.months_aside()]))

    def foreign(self, sessions: Collection[str]) -> set[str]:
        """Those of some sessions that are another's, or that nobody announced and in which another is named."""
        parameters = {"user": self.user, "sessions": list(sessions)}
        found = {row[0] for row in self._connection.execute(read("forget/foreign.sql"), parameters)}
        statement = sql.SQL("SELECT session_id FROM {} WHERE session_id = any(%(sessions)s) AND user_id <> %(user)s")
        for table in self.months_aside():
            found |= {row[0] for row in self._connection.execute(statement.format(table), parameters)}
        return found - self.announced()

    def live(self) -> set[str]:
        """Sessions that have not ended and had an event in the last five minutes."""
        return {row[0] for row in self._connection.execute(read("forget/live.sql"), self._parameters())}

    def remember(self, sessions: Collection[str]) -> None:
        """Let a later run know that these are theirs, when what says so is deleted."""
        self._connection.execute(read("forget/remember.sql"), {"user": self.user, "sessions": list(sessions)})

    def finish(self) -> None:
        """Nothing is left to be done."""
        self._connection.execute("DELETE FROM slate.forgetting WHERE user_id = %(user)s", {"user": self.user})

    def months_aside(self) -> list[sql.Identifier]:
        """Months of events that are tables of their own."""
        rows = self._connection.execute(read("forget/months_aside.sql"))
        return [sql.Identifier(schema, name) for schema, name in rows]

    def everything(self) -> list[tuple[str, sql.Composed]]:
        """Each table and the condition under which its rows are theirs, with parameters as `parameters` gives them."""
        of_session = sql.SQL("session_id = any(%(sessions)s)")
        of_user = sql.SQL("(session_id = any(%(sessions)s) OR user_id = %(user)s)")
        found = [
            (one.name, sql.SQL("{} AS t WHERE {}").format(sql.Identifier("public", one.name), condition))
            for one in TABLES
            for condition in [of_user if one.has_user else of_session]
        ]
        aside = [("spark_events", sql.SQL("{} AS t WHERE {}").format(table, of_user)) for table in self.months_aside()]
        small = [
            (name, sql.SQL("{} AS t WHERE {}").format(sql.Identifier("public", name), of_session)) for name in SMALL
        ]
        return found + aside + small

    def parameters(self) -> dict[str, Any]:
        """What conditions are asked with."""
        return self._parameters()

    def count(self) -> dict[str, int]:
        """How many rows each table has of them; tables without are left out."""
        counts: dict[str, int] = {}
        for name, rows in self.everything():
            row = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(rows), self._parameters())
            counts[name] = counts.get(name, 0) + int((row.fetchone() or [0])[0])
        return {name: n for name, n in counts.items() if n}

    def frames(self) -> Iterator[list[str]]:
        """Pictures that only previews of theirs refer to, some at a time."""
        after = 0
        pages = (
            "SELECT id, frame_ref FROM public.spark_previews WHERE id > %(after)s AND session_id = any(%(sessions)s)"
            " AND frame_ref IS NOT NULL ORDER BY id LIMIT %(most)s"
        )
        while page := self._connection.execute(pages, self._parameters() | {"after": after, "most": PAGE}).fetchall():
            after = page[-1][0]
            yield self.unshared({row[1] for row in page})

    def unshared(self, frames: Collection[str]) -> list[str]:
        """Those of some pictures that no preview of another refers to."""
        shared = self._connection.execute(
            "SELECT DISTINCT frame_ref FROM public.spark_previews"
            " WHERE frame_ref = any(%(frames)s) AND session_id <> all(%(sessions)s)",
            self._parameters() | {"frames": list(frames)},
        )
        return sorted(set(frames) - {row[0] for row in shared})

    # ---- where workers are ---------------------------------------------------------------------------------------

    def positions(self) -> dict[int, Position]:
        """Of all partitions."""
        rows = self._connection.execute(read("forget/positions.sql"), {"stream": self._stream})
        return {partition: Position(*rest) for partition, *rest in rows}

    def count_anew(self) -> None:
        """Count what is stored, where nobody else does."""

        def still() -> str | None:
            return _UNCOUNTED if any(one.uncounted for one in self.positions().values()) else None

        rebuild(self._connection, self._stream, _UNCOUNTED, still)

    def skip(self, partition: int, created: datetime, first: int, upto: int) -> None:
        """Let reading of a partition begin after what is to be erased at the head of the stream, so that nobody takes
        it for lost; not where something is missing before that."""
        with self._connection.transaction():
            key = {"stream": self._stream, "partition": partition, "created": created}
            row = self._connection.execute(read("ingest/position.sql"), key).fetchone()
            if row is not None and row[1] == created and first - 1 <= row[0] < upto:
                self._connection.execute(read("ingest/set_position.sql"), key | {"seq": upto})

    # ---- deletion ------------------------------------------------------------------------------------------------

    def delete(self, table: Table) -> Iterator[tuple[int, int]]:
        """Delete the rows of a table, a page at a time: how many, and up to which id of how many."""
        name = sql.Identifier("public", table.name)
        row = self._connection.execute(sql.SQL("SELECT coalesce(max(id), 0) FROM {}").format(name)).fetchone()
        last, after = int(row[0]) if row else 0, 0
        while after < last:
            upto = self._next(name, after)
            yield self._retried(lambda after=after, upto=upto: self._delete_page(table, after, upto)), upto  # type: ignore[misc]
            after = upto

    def delete_aside(self) -> Iterator[int]:
        """Delete events of months that are tables of their own; of totals their rows are no part any more."""
        for table in self.months_aside():
            statement = sql.SQL("DELETE FROM {} WHERE session_id = any(%(sessions)s) OR user_id = %(user)s")
            yield self._connection.execute(statement.format(table), self._parameters()).rowcount

    def delete_small(self, name: str) -> int:
        """Delete the rows of a table of `SMALL`."""
        statement = sql.SQL("DELETE FROM {} WHERE session_id = any(%(sessions)s)")
        return self._connection.execute(statement.format(sql.Identifier("public", name)), self._parameters()).rowcount

    def delete_letters(self, ids: Collection[int]) -> int:
        """Delete dead letters."""
        return self._retried(lambda: self._first(read("forget/dead_letters.sql"), {"ids": list(ids)}))

    def delete_bookkeeping(self) -> dict[str, int]:
        """Delete what is kept of them in the schema `slate`; how much of what."""
        names = ("alert_signals", "alert_budgets", "alert_states", "alert_silences", "alerts", "windows")
        parameters = {"user": str(self.user), "sessions": list(self.sessions)}

        def delete() -> dict[str, int]:
            row = self._connection.execute(read("forget/bookkeeping.sql"), parameters).fetchone()
            return dict(zip(names, row or (), strict=True))

        return self._retried(delete)

    def _delete_page(self, table: Table, after: int, upto: int) -> int:
        parameters = self._parameters() | {"after": after, "upto": upto}
        if table.statement is None:
            plain = sql.SQL("DELETE FROM {} WHERE id > %(after)s AND id <= %(upto)s AND session_id = any(%(sessions)s)")
            return self._connection.execute(plain.format(sql.Identifier("public", table.name)), parameters).rowcount
        with self._connection.transaction():
            row = self._connection.execute(read(table.statement), parameters).fetchone()
            gone = int(row[0]) if row else 0
            if gone and row and len(row) > 1:
                self._connection.execute(read("forget/usage_gone.sql"), {"sessions": row[1]})
            elif gone:
                self._connection.execute(read("forget/totals_gone.sql"))
        return gone

    def _next(self, name: sql.Identifier, after: int) -> int:
        page = "SELECT max(id) FROM (SELECT id FROM {} WHERE id > %(after)s ORDER BY id LIMIT %(most)s) AS page"
        row = self._connection.execute(sql.SQL(page).format(name), {"after": after, "most": PAGE}).fetchone()
        return int(row[0]) if row and row[0] is not None else after + PAGE

    def _retried(self, what: Callable[[], T]) -> T:
        """Try again where rollups, which wait for the same totals in another order, were first."""
        for left in reversed(range(_TRIES)):
            try:
                return what()
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if not left:
                    raise
        raise AssertionError

    def _parameters(self) -> dict[str, Any]:
        return {"user": self.user, "sessions": list(self.sessions)}

    def _texts(self, statement: Any) -> set[str]:
        return {row[0] for row in self._connection.execute(statement, {"user": self.user})}

    def _first(self, statement: str, parameters: dict[str, Any]) -> int:
        row = self._connection.execute(statement, parameters).fetchone()
        return int(row[0]) if row else 0
