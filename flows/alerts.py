"""Alerts on what is counted: rules are evaluated beside the dataflow, as event time goes on.

A thread of every rollups worker; one of them, which holds the lease, does it. It takes the figures that were committed
since its last look, moves the rules on to the event time up to which all has come, and commits what was decided with
the state that it was decided from. If it cannot, or is killed, the next look begins with what was committed last.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import psycopg
import structlog

from connectors import metrics
from connectors.alerts import AlertProgress, AlertStore, BudgetRow, StateRow, Transition
from connectors.errors import ConfigurationError, SlateError
from connectors.health import HEALTH
from connectors.jetstream import backlog
from connectors.link import Connection, open_connection
from connectors.server_clock import ServerClock
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.sums import TICK_US
from connectors.webhooks import Receiver, start_couriers, usable
from connectors.writer import new_owner
from flows.alert_engine import Engine
from flows.alert_machine import State
from flows.alert_rules import SEVERITIES, TICK_S, Budget, load
from flows.alert_signals import MICRO, OPEN_FOR_S, SignalRow, signal_row
from flows.alert_windows import Group, period_of
from flows.alert_words import OVERFLOW, fingerprint
from flows.fold import USAGE

LATENESS_US: Final = 1_000_000
"""How far event time must be past a tick before it is looked at: what comes later counts with the ticks after it."""
SAMPLE_EVERY_S: Final = 10.0
_LOOK_S: Final = 0.5
_STANDBY_S: Final = 1.0
_TROUBLE_S: Final = 2.0
_PRUNE_EVERY_S: Final = 60.0

_log = structlog.get_logger(__name__)


class LiveRules:
    """The rules file as it is now; one that is not right leaves the rules in force as they are.

    Raises:
        ConfigurationError: it is not right at the start.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = path = settings.alert_rules_file
        self._stamp = self._look()
        self.current = load(path)
        self.receivers = usable(settings, self.current.receivers)
        self.usage_labels = self.current.dimensions_of_usage
        """The labels of usage that some rule needs."""
        metrics.ALERT_RULES_VALID.set(1)
        names = [receiver.name for receiver in self.receivers]
        _log.info("alert rules", file=str(path), rules=len(self.current.rules), receivers=names or "none is set")

    def receivers_of(self, labels: dict[str, str]) -> list[str]:
        """Names of the receivers that are to be told of an alert, of those that are set."""
        on = {receiver.name for receiver in self.receivers}
        return [name for name in self.current.receivers_of(labels) if name in on]

    def reload(self) -> bool:
        """Look at the file; whether other rules are in force since."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            rules = load(self._path)
            receivers = usable(self._settings, rules.receivers)
        except ConfigurationError as error:
            metrics.ALERT_RULES_VALID.set(0)
            _log.error("the rules file was changed and is not right: the rules stay as they were", error=str(error))
            return False
        metrics.ALERT_RULES_VALID.set(1)
        if rules == self.current:
            return False
        self.current, self.receivers, self.usage_labels = rules, receivers, rules.dimensions_of_usage
        _log.info("other alert rules are in force", rules=len(rules.rules), budgets=len(rules.budgets))
        return True

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class Evaluator:
    """Evaluates the rules of a stream, look by look. For one thread.

    Args:
        settings: names database and stream.
        rules: what to watch.
        clock: seconds since 1970; times the rules on samples. The database's unless it is given.
    """

    def __init__(self, settings: Settings, rules: LiveRules, clock: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self.database_clock = ServerClock()
        self.owner = new_owner()
        self._store = AlertStore(settings, self.owner)
        self._engines: tuple[Engine, Engine] | None = None
        self._mine: tuple[Any, ...] | None = None
        self._pruned = 0.0
        self.active = False
        """Whether this worker holds the lease."""

    def look(self, connection: Connection) -> bool:
        """Evaluate what can be; false where another worker does it.

        Raises:
            psycopg.Error: the database failed; nothing is decided, and the next look begins with what was committed.
        """
        try:
            if self._rules.reload():
                self._engines = None
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with metrics.ALERT_EVALUATION_SECONDS.time(), connection.transaction():
                self.active = self._look(connection)
        except BaseException:
            self._engines = None  # what is in memory may be ahead of what is committed
            raise
        return self.active

    def _look(self, connection: Connection) -> bool:
        progress = self._store.progress(connection)
        if progress is None:
            self._store.begin(connection)
            progress = self._store.progress(connection)
            assert progress is not None  # noqa: S101 - it was just made
        if progress.taken:
            return False
        self.database_clock.set(progress.clock)
        clock_us = progress.clock if self._clock is None else int(self._clock() * 1_000_000)
        orphans: list[StateRow] = []
        if self._engines is None or self._mine != progress[1:5]:
            self._engines, orphans = self._restored(connection, progress, clock_us)
            HEALTH.beat("alerts")  # after a long absence each of these may take a while
        events, samples = self._engines
        sampled_until = (clock_us - LATENESS_US) // TICK_US
        until = None if progress.reached is None else (progress.reached - LATENESS_US) // TICK_US
        if (
            self._mine == progress[1:5]
            and not orphans
            and not (_is_due(samples, sampled_until) or _is_due(events, until))
        ):
            return True  # the lease lasts until the next sample is due
        rows = [signal_row(row) for row in self._store.rows(connection, progress.seen, new=True)]
        for engine in self._engines:
            engine.add(rows)
        found = [_ended(row, events.now, clock_us) for row in orphans if row.status == "firing"]
        budgets = progress.budgets
        if until is not None and events.start() is not None:
            budgets = self._seed(connection, events, budgets)
            found += events.advance(until)
        found += samples.advance(sampled_until)
        HEALTH.beat("alerts")
        self._write(connection, found, orphans)
        self._prune(connection, progress, clock_us)
        evaluated, sampled = (None if engine.now is None else engine.now * TICK_US for engine in self._engines)
        self._store.move_on(connection, evaluated, sampled, budgets)
        self._mine = (evaluated, sampled, budgets, self.owner)
        self._tell(found)
        return True

    def _restored(
        self, connection: Connection, progress: AlertProgress, clock_us: int
    ) -> tuple[tuple[Engine, Engine], list[StateRow]]:
        """Engines as they were when the last look was committed, and the states of rules that are no more."""
        rules = self._rules.current
        engines = Engine(rules), Engine(rules, sampled=True)
        kept: tuple[list[tuple[int, Group, State]], ...] = ([], [])
        orphans: list[StateRow] = []
        for row in self._store.states(connection):
            group = None if row.key is None else tuple(row.key)
            for engine, states in zip(engines, kept, strict=True):
                rule = engine.rule_of(row.rule, row.fingerprint, group)
                if rule is not None:
                    states.append((rule, OVERFLOW if group is None else group, _state(row)))
                    break
            else:
                orphans.append(row)
        rows = [signal_row(row) for row in self._store.rows(connection, progress.seen, new=False)]
        spent = [
            (row.rule, tuple(msgspec.json.decode(row.key)), row.period // TICK_US, row.spent)
            for row in self._store.spent(connection)
        ]
        begins = progress.evaluated, progress.sampled or clock_us - LATENESS_US  # by the clock there is always a now
        for engine, states, now in zip(engines, kept, begins, strict=True):
            if now is None:
                engine.add(rows)
            else:
                engine.restore(now // TICK_US, rows, states, spent)
        return engines, orphans

    def _seed(self, connection: Connection, engine: Engine, known: list[str]) -> list[str]:
        """Count in what was spent before a budget was there."""
        identities = {budget.identity: budget for budget in engine.budgets}
        for identity, budget in identities.items():
            if identity not in known:
                self._store.forget_spent(connection, budget.name)  # it may have been another's of this name
                seed(connection, self._store, engine, budget)
        return list(identities)

    def _write(self, connection: Connection, found: Sequence[Transition], orphans: Sequence[StateRow]) -> None:
        assert self._engines is not None  # noqa: S101 - the caller has made them
        states: list[StateRow] = []
        gone = [(row.rule, row.fingerprint) for row in orphans]
        spent: list[BudgetRow] = []
        for engine in self._engines:
            changed = engine.changed()
            for (rule, group), state in changed.states.items():
                labels = engine.watched[rule].labels_of(group)
                if state is None:
                    gone.append((engine.watched[rule].name, fingerprint(labels)))
                else:
                    states.append(_state_row(engine, rule, group, state, labels))
            spent += [
                BudgetRow(name, msgspec.json.encode(group).decode(), period * TICK_US, amount)
                for (name, group), (period, amount) in changed.spent.items()
            ]
        self._store.decide(connection, found, self._rules.receivers_of)
        self._store.forget_states(connection, gone)
        self._store.keep_states(connection, states)
        self._store.keep_spent(connection, spent)

    def _prune(self, connection: Connection, progress: AlertProgress, clock_us: int) -> None:
        if time.monotonic() - self._pruned < _PRUNE_EVERY_S or progress.evaluated is None:
            return
        self._pruned = time.monotonic()
        longest = self._rules.current.longest_window_s * 1_000_000
        sessions = progress.evaluated - max(longest, OPEN_FOR_S * 1_000_000)
        self._store.prune(connection, progress.seen, progress.evaluated - longest, sessions, clock_us - longest)

    def _tell(self, found: Sequence[Transition]) -> None:
        assert self._engines is not None  # noqa: S101 - the caller has made them
        for one in found:
            metrics.ALERT_TRANSITIONS.labels(state=one.state).inc()
            log = _log.info if one.labels.get("severity") == "info" else _log.warning
            log(f"alert {one.state}", rule=one.rule, reason=one.reason, labels=one.labels)
        if self._engines[0].now is not None:
            metrics.ALERT_EVALUATED.set(self._engines[0].now * TICK_S)
        for severity in SEVERITIES:
            count = sum(engine.firing(severity) for engine in self._engines)
            metrics.ALERTS_FIRING.labels(severity=severity).set(count)
        metrics.ALERT_LATE.set(self._engines[0].late)
        metrics.ALERT_UNTRACKED.set(self._engines[0].untracked)


def seed(connection: Connection, store: AlertStore, engine: Engine, budget: Budget) -> None:
    """Count in what the tables say was spent of a budget in the current period, up to where an engine is."""
    now = engine.now
    assert now is not None  # noqa: S101 - an engine that has not begun has no current period
    since = period_of(now, budget.period)[0]
    found = store.spent_before(connection, since * TICK_US, now * TICK_US, [*budget.dimensions, *budget.where])
    rows = [
        SignalRow(now, USAGE, model, user, session, count, int(tokens), int(cost), {})
        for model, user, session, count, tokens, cost in found
    ]
    engine.seed(budget.name, rows)


def watch_alerts(settings: Settings, rules: LiveRules, shutdown: Shutdown) -> None:
    """Evaluate and deliver from now on, on threads of their own."""
    evaluator = Evaluator(settings, rules)
    threading.Thread(target=_deliver, args=(settings, rules, shutdown), name="couriers", daemon=True).start()
    threading.Thread(target=_evaluate, args=(settings, evaluator, shutdown), name="alerts", daemon=True).start()
    threading.Thread(target=_sample, args=(settings, evaluator, shutdown), name="samples", daemon=True).start()


def _deliver(settings: Settings, rules: LiveRules, shutdown: Shutdown) -> None:
    """Keep a courier for each receiver of the rules that are in force."""
    receivers: list[Receiver] = []
    stopped = Shutdown()
    while not shutdown.wait(_STANDBY_S):
        if rules.receivers is not receivers:
            receivers = rules.receivers
            stopped.request()
            stopped = Shutdown()
            start_couriers(settings, receivers, stopped)
    stopped.request()


def _evaluate(settings: Settings, evaluator: Evaluator, shutdown: Shutdown) -> None:
    connection: Connection | None = None
    pause, told = 0.0, False
    while not shutdown.wait(pause):
        HEALTH.beat("alerts")
        try:
            if connection is None or connection.closed:
                connection = open_connection(settings, "slate-alerts", patience=False)
            pause = _LOOK_S if evaluator.look(connection) else _STANDBY_S
            told = False
        except psycopg.errors.SerializationFailure:
            pause = _STANDBY_S  # another worker was first
        except psycopg.Error as error:
            if not told:
                _log.warning("cannot evaluate alerts", error=str(error).strip(), sqlstate=error.sqlstate)
            told, pause = True, _TROUBLE_S
            if connection is not None:
                connection.close()
        except Exception:  # noqa: BLE001 - counting goes on, whatever is wrong with alerts
            _log.exception("alerts are not evaluated: this is a fault of the program")
            pause = _PRUNE_EVERY_S
        HEALTH.rest("alerts")


def _sample(settings: Settings, evaluator: Evaluator, shutdown: Shutdown) -> None:
    """Look at what is not in the stream: how much waits in it, for how long, and whether rollups are written."""
    store = AlertStore(settings, evaluator.owner)
    told = False
    while not shutdown.wait(SAMPLE_EVERY_S if told or evaluator.active else _STANDBY_S):
        now_us = evaluator.database_clock.now_us
        if not evaluator.active or now_us is None:
            continue
        try:
            with open_connection(settings, "slate-samples") as connection:
                found = store.positions(connection)
                silent = max((seconds for _, _, seconds in found if seconds is not None), default=0.0)
                store.sample(connection, now_us // TICK_US, {"rollup_lag": int(silent * MICRO)})
                positions = {partition: seq for partition, seq, _ in found}
                waiting, oldest = asyncio.run(backlog(settings, positions, now_us / 1_000_000))
                values = {"queue_depth": waiting * MICRO, "ingest_lag": int(oldest * MICRO)}
                store.sample(connection, now_us // TICK_US, values)
            told = False
        except (psycopg.Error, SlateError) as error:
            if not told:
                _log.warning("cannot see what waits in the stream", error=str(error).strip())
            told = True
        except Exception:  # noqa: BLE001 - as above
            _log.exception("no samples are taken: this is a fault of the program")
            told = True


def _is_due(engine: Engine, until: int | None) -> bool:
    """Whether there is a tick to look at."""
    return until is not None and (engine.now is None or engine.now < until)


def _state(row: StateRow) -> State:
    def tick(us: int | None) -> int | None:
        return None if us is None else us // TICK_US

    return State(
        status=row.status if row.status != "cooling" else "ok",  # type: ignore[arg-type]
        since=row.since // TICK_US,
        clear_since=tick(row.clear_since),
        cool_until=tick(row.cool_until),
        starts=tick(row.starts),
        value=row.value,
        samples=row.samples,
    )


def _state_row(engine: Engine, rule: int, group: Group, state: State, labels: dict[str, str]) -> StateRow:
    def us(tick: int | None) -> int | None:
        return None if tick is None else tick * TICK_US

    return StateRow(
        rule=engine.watched[rule].name,
        fingerprint=fingerprint(labels),
        key=None if group == OVERFLOW else list(group),
        labels=labels,
        status="cooling" if state.status == "ok" else state.status,
        since=state.since * TICK_US,
        clear_since=us(state.clear_since),
        cool_until=us(state.cool_until),
        starts=us(state.starts),
        value=state.value,
        samples=state.samples,
        reason=engine.reason(rule, group, state),
    )


def _ended(row: StateRow, now: int | None, clock_us: int) -> Transition:
    """The end of an alert whose rule is gone; what was sampled began by the clock, which may be ahead."""
    starts = row.starts or row.since
    reason = "the rule is gone, or is another one now"
    return Transition(
        rule=row.rule,
        fingerprint=row.fingerprint,
        state="resolved",
        labels=row.labels,
        annotations={"summary": f"{row.rule}: {reason}"},
        value=row.value,
        reason=reason,
        starts=starts,
        ends=max(starts, clock_us if now is None else now * TICK_US),
    )
