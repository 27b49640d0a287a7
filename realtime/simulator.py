"""Made-up traffic of many sessions, reproducible to the byte from a seed and a start time.

Nothing here looks at a clock or sends anything: `events(plan)` says what is to be published and when.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count

import msgspec

from realtime.bench_mix import bench_mix
from realtime.chance import Chance
from realtime.refusals import refused
from realtime.scenario import FUNCTIONS, Session, Step
from realtime.simulated import SimulatedEvent

__all__ = ["Plan", "SimulatedEvent", "bench_mix", "events"]

_LATE = 0.01
"""Share of messages that reach NATS behind younger ones, with the time at which they happened."""
_RECENT = 256
"""A repeat is one of this many last messages."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to simulate; the same plan gives the same bytes."""

    start: datetime
    """Aware time of the first message. Identities differ with it, so that a later run is new traffic."""
    sessions: int = 20
    """Sessions open at a time; who leaves is followed by another."""
    rate: float = 200.0
    """Messages a second, all sessions together."""
    seconds: float = 0.0
    """Length; 0 is without end."""
    messages: int = 0
    """Length in messages; 0 is without end. The shorter length counts."""
    invalid: float = 0.0
    """Share of messages that the contract refuses, 0 to 1."""
    duplicates: float = 0.0
    """Share of messages that repeat an earlier one, 0 to 1."""
    seed: int = 0
    outage: str = ""
    """A function of which every call fails for a time."""
    outage_after: float = 0.0
    """When that begins, seconds after the start."""
    outage_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError("start must be an aware time")
        if self.sessions < 1 or not self.rate > 0:
            raise ValueError("there must be at least one session and a rate above 0")
        if min(self.invalid, self.duplicates) < 0 or self.invalid + self.duplicates > 1:
            raise ValueError("invalid and duplicates are shares: each at least 0, together at most 1")
        if self.outage and self.outage not in FUNCTIONS:
            raise ValueError(f"outage must be one of {', '.join(FUNCTIONS)}")

    @property
    def total(self) -> int | None:
        """How many messages, or None for no end."""
        lengths = [self.messages] if self.messages else []
        if self.seconds:
            lengths.append(round(self.seconds * self.rate))
        return min(lengths, default=None)


def events(plan: Plan) -> Iterator[SimulatedEvent]:
    """The plan's messages in the order in which they are due."""
    return _Simulation(plan).run()


class _Simulation:
    """The sessions of a plan, interleaved by their own time; message number k is due at k / rate."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start_ms = int(plan.start.timestamp() * 1000)
        self._chance = Chance(f"{plan.seed}")
        self._ids = Chance(f"{plan.seed} {self._start_ms}")
        self._recent: deque[SimulatedEvent] = deque(maxlen=_RECENT)
        # (session time, slot, session, its next step, the rest); the slot decides between equal times.
        self._open: list[tuple[float, int, Session, Step, Iterator[Step]]] = [
            self._opened(20.0 * self._chance.random(), slot) for slot in range(plan.sessions)
        ]
        heapq.heapify(self._open)

    def run(self) -> Iterator[SimulatedEvent]:
        plan, chance = self._plan, self._chance
        repeats = plan.invalid + plan.duplicates
        held: list[tuple[int, int, SimulatedEvent]] = []
        order = count()
        for number in count() if plan.total is None else range(plan.total):
            due = number / plan.rate
            what = chance.random()
            if what < plan.invalid:
                time_ms = self._start_ms + int(due * 1000.0)
                yield refused(chance, self._open[0][2].id, due, time_ms, msg_id=self._ids.uuid())
                continue
            if what < repeats and self._recent:
                yield self._repeated(due)
                continue
            if held and held[0][0] <= number:
                event = replace(heapq.heappop(held)[2], due=due)
            else:
                event = self._next(due)
                while chance.random() < _LATE:
                    heapq.heappush(held, (number + chance.between(5, 200), next(order), event))
                    event = self._next(due)
            if event.identity is not None:
                self._recent.append(event)
            yield event

    def _opened(self, at: float, slot: int) -> tuple[float, int, Session, Step, Iterator[Step]]:
        session = Session(self._chance, self._ids)
        steps = session.steps()
        return at, slot, session, next(steps), steps

    def _next(self, due: float) -> SimulatedEvent:
        at, slot, session, step, steps = self._open[0]
        plan = self._plan
        broken = plan.outage_after <= due < plan.outage_after + plan.outage_seconds
        session.broken = plan.outage if broken else ""
        following = next(steps, None)
        if following is None:
            entry = self._opened(at + 10.0 * self._chance.random(), slot)
        else:
            # Two thirds to four thirds of the gap: no two sessions keep the same time.
            gap = following.gap * (0.667 + 0.667 * self._chance.random())
            entry = (at + gap, slot, session, following, steps)
        heapq.heapreplace(self._open, entry)
        return self._event(due, session, step)

    def _event(self, due: float, session: Session, step: Step) -> SimulatedEvent:
        chance = self._chance
        body = {"sessionId": session.id, **step.body}
        time_ms = self._start_ms + int(due * 1000.0 - 40.0 * chance.random())
        if chance.random() < 0.95:
            body["timestamp"] = time_ms
        if session.user_id is not None and chance.random() < 0.7:
            body["userId"] = session.user_id
            body["projectId"] = session.project_id
        if step.kind == "telemetry_batch":
            for index, element in enumerate(reversed(body["events"])):
                element["timestamp"] = time_ms - 500 * index
        # Publishers of four ages: both identities, a message id only, an event id only, none.
        style = chance.random()
        identity = msg_id = None
        if style < 0.95:
            identity = self._ids.uuid()
            # The elements of a batch have event ids, the batch itself a message id.
            if step.kind == "telemetry_batch" or style < 0.8:
                msg_id = identity
            if step.kind != "telemetry_batch" and not 0.55 <= style < 0.8:
                body["eventId"] = identity
        return SimulatedEvent(due, f"{step.subject}.{session.id}", _encode(body), msg_id, step.kind, identity)

    def _repeated(self, due: float) -> SimulatedEvent:
        earlier = self._chance.pick(self._recent)
        # Without its message id the server lets it through, and whoever stores must know it by its event id.
        by_event_id = f'"eventId":"{earlier.identity}"'.encode() in earlier.payload
        msg_id = None if by_event_id and self._chance.random() < 0.5 else earlier.msg_id
        return replace(earlier, due=due, msg_id=msg_id, repeat=True)
