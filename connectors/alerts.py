"""Where alerts are kept: what rules look at, how far they are evaluated, and the outbox of what was decided.

Guarantee: exactly-once. What is decided, the state that it was decided from, and how far the figures are taken into
account are one transaction; whoever is killed, the next goes on from there and decides the same.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from connectors.arrays import BIGINT, JSON, LABEL, TEXT, TIMESTAMP
from connectors.jetstream import partition_numbers
from connectors.link import Connection
from connectors.settings import Settings
from connectors.sql import read

LONGEST_PERIOD_US: Final = 32 * 86_400_000_000
"""A budget's period is over after so long."""


class Transition(msgspec.Struct, frozen=True):
    """An alert that began or ended; times in microseconds since 1970, `ends` None where it began."""

    rule: str
    fingerprint: str
    state: str
    labels: dict[str, str]
    annotations: dict[str, str]
    value: float | None
    reason: str
    starts: int
    ends: int | None


class StateRow(NamedTuple):
    """A row of `slate.alert_states`; times in microseconds since 1970."""

    rule: str
    fingerprint: str
    key: list[str] | None
    labels: dict[str, str]
    status: str
    since: int
    clear_since: int | None
    cool_until: int | None
    starts: int | None
    value: float | None
    samples: int
    reason: str


class BudgetRow(NamedTuple):
    """A row of `slate.alert_budgets`; `period` in microseconds since 1970."""

    rule: str
    key: str
    period: int
    spent: int


class AlertProgress(NamedTuple):
    """How far alerts are evaluated; times in microseconds since 1970. `taken` is whether another worker does it;
    `reached` is up to where it could be done now, None while that is not known; `clock` is the database's."""

    seen: str
    evaluated: int | None
    sampled: int | None
    budgets: list[str]
    owner: str
    taken: bool
    reached: int | None
    clock: int


class AlertStore:
    """Reads and writes them, inside the caller's transaction."""

    def __init__(self, settings: Settings, owner: str) -> None:
        self._key: Final[dict[str, Any]] = {"stream": settings.stream}
        self._owner = owner
        self._partitions = partition_numbers(settings)

    def progress(self, connection: Connection) -> AlertProgress | None:
        """How far alerts are evaluated, None where they never were."""
        row = connection.execute(
            read("alerts/progress.sql"), self._key | {"owner": self._owner, "all_partitions": self._partitions}
        ).fetchone()
        return None if row is None else AlertProgress(*row)

    def begin(self, connection: Connection) -> None:
        """Let there be progress."""
        connection.execute(read("alerts/begin.sql"), self._key)

    def rows(self, connection: Connection, seen: str, *, new: bool) -> list[tuple[Any, ...]]:
        """Figures that were taken into account by a snapshot and are kept, or those that were not; in no order."""
        parameters = {"seen": seen, "taken": not new, "since": seen.partition(":")[0] if new else "0"}
        return connection.execute(read("alerts/figures.sql"), parameters, binary=True).fetchall()

    def states(self, connection: Connection) -> list[StateRow]:
        """Groups that are not simply well."""
        return [StateRow(*row) for row in connection.execute(read("alerts/states.sql"), self._key)]

    def spent(self, connection: Connection) -> list[BudgetRow]:
        """What was spent in the current periods."""
        return [BudgetRow(*row) for row in connection.execute(read("alerts/budgets.sql"), self._key)]

    def spent_before(
        self, connection: Connection, since: int, until: int, labels: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """What the tables say: model, user, session, samples, tokens, cost in millionths, between two times."""
        parameters = {"since_us": since, "until_us": until, "labels": list(labels)}
        return connection.execute(read("alerts/spent_before.sql"), parameters).fetchall()

    def move_on(
        self, connection: Connection, evaluated: int | None, sampled: int | None, budgets: Sequence[str]
    ) -> None:
        """Alerts are evaluated up to here, with all that this transaction sees."""
        connection.execute(
            read("alerts/move_on.sql"),
            self._key
            | {"owner": self._owner, "evaluated_us": evaluated, "sampled_us": sampled, "budgets": list(budgets)},
        )

    def keep_states(self, connection: Connection, rows: Sequence[StateRow]) -> None:
        """Remember groups."""
        if not rows:
            return
        connection.execute(
            read("alerts/upsert_states.sql"),
            self._key
            | {
                "rule": LABEL.array([row.rule for row in rows]),
                "fingerprint": TEXT.array([row.fingerprint for row in rows]),
                "key": JSON.array([None if row.key is None else msgspec.json.encode(row.key) for row in rows]),
                "labels": JSON.array([msgspec.json.encode(row.labels) for row in rows]),
                "status": LABEL.array([row.status for row in rows]),
                "since": TIMESTAMP.array([row.since for row in rows]),
                "clear_since": TIMESTAMP.array([row.clear_since for row in rows]),
                "cool_until": TIMESTAMP.array([row.cool_until for row in rows]),
                "starts": TIMESTAMP.array([row.starts for row in rows]),
                "value": [row.value for row in rows],
                "samples": BIGINT.array([row.samples for row in rows]),
                "reason": TEXT.array([row.reason for row in rows]),
            },
        )

    def forget_states(self, connection: Connection, gone: Sequence[tuple[str, str]]) -> None:
        """Forget groups, by rule and fingerprint."""
        if gone:
            rules, fingerprints = zip(*gone, strict=True)
            connection.execute(
                read("alerts/delete_states.sql"),
                self._key | {"rule": LABEL.array(rules), "fingerprint": TEXT.array(fingerprints)},
            )

    def keep_spent(self, connection: Connection, rows: Sequence[BudgetRow]) -> None:
        """Remember what was spent."""
        if rows:
            rules, keys, periods, spent = zip(*rows, strict=True)
            connection.execute(
                read("alerts/upsert_budgets.sql"),
                self._key
                | {
                    "rule": LABEL.array(rules),
                    "key": TEXT.array(keys),
                    "period": TIMESTAMP.array(periods),
                    "spent": BIGINT.array(spent),
                },
            )

    def forget_spent(self, connection: Connection, rule: str) -> None:
        """Forget what a budget has spent."""
        connection.execute(read("alerts/forget_spent.sql"), self._key | {"rule": rule})

    def decide(
        self,
        connection: Connection,
        transitions: Sequence[Transition],
        receivers_of: Callable[[dict[str, str]], Iterable[str]],
    ) -> None:
        """Put transitions in the outbox, in order, and in the queues of the receivers that their labels give."""
        if not transitions:
            return
        queued = [(one, receiver) for one in transitions for receiver in receivers_of(one.labels)]
        connection.execute(
            read("alerts/decide.sql"),
            self._key
            | {
                "rule": LABEL.array([one.rule for one in transitions]),
                "fingerprint": TEXT.array([one.fingerprint for one in transitions]),
                "state": LABEL.array([one.state for one in transitions]),
                "labels": JSON.array([msgspec.json.encode(one.labels) for one in transitions]),
                "annotations": JSON.array([msgspec.json.encode(one.annotations) for one in transitions]),
                "value": [one.value for one in transitions],
                "reason": TEXT.array([one.reason for one in transitions]),
                "starts": TIMESTAMP.array([one.starts for one in transitions]),
                "ends": TIMESTAMP.array([one.ends for one in transitions]),
                "to_fingerprint": TEXT.array([one.fingerprint for one, _ in queued]),
                "to_state": LABEL.array([one.state for one, _ in queued]),
                "to_starts": TIMESTAMP.array([one.starts for one, _ in queued]),
                "to_receiver": LABEL.array([receiver for _, receiver in queued]),
            },
        )

    def prune(self, connection: Connection, seen: str, evaluated: int, sessions: int, sampled: int) -> None:
        """Forget figures from before these times: of events, of those that open and close sessions, of samples."""
        parameters = {"seen": seen, "evaluated_us": evaluated, "sessions_us": sessions, "sampled_us": sampled}
        connection.execute(read("alerts/prune.sql"), parameters)
        connection.execute(read("alerts/prune_budgets.sql"), self._key | {"before_us": evaluated - LONGEST_PERIOD_US})

    def sample(self, connection: Connection, tick: int, values: dict[str, int]) -> None:
        """Add samples of a tick, in millionths."""
        parameters = {"tick": tick, "key": list(values), "value": list(values.values())}
        connection.execute(read("alerts/sample.sql"), parameters)

    def positions(self, connection: Connection) -> list[tuple[int, int, float | None]]:
        """Up to where ingest has stored each partition, and for how long its rollups were not written, seconds."""
        return connection.execute(read("alerts/positions.sql"), self._key).fetchall()
