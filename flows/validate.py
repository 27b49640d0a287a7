"""From messages to outcomes: each message becomes rows, a duplicate or a dead letter. Pure, and whole batches.

`flows.handlers` has a handler for each kind of message; they add rows in the column order of `flows.rows`.
"""

from functools import lru_cache

from connectors.messages import NatsBatch
from flows.collect import Collected, Handler
from flows.events import DeadLetter, Outcomes, Refused, Route, parse_subject
from flows.handlers import HANDLERS, undeliverable
from flows.payloads import parse_payload
from flows.telemetry import telemetry_elements


def validate(source: NatsBatch) -> Outcomes:
    """Turn consecutive messages of one partition into their outcomes.

    The result depends on the messages alone: no clock, no state. An identity that comes again within the batch is
    a duplicate here; one that the database knows already is found by the sink.
    """
    batch = Collected(source.stream)
    for index, message in enumerate(source.messages):
        batch.index = index
        try:
            route, handle = _dispatch(message.subject)
            if handle is not undeliverable:
                try:
                    batch.fields = parse_payload(message.payload)
                except Refused as why:
                    if handle is not telemetry_elements or why.stage == "decode":
                        raise
                    batch.fields = {}
            handle(batch, route, message)
        except Exception as error:  # noqa: BLE001 - whatever a payload provokes hurts that message only
            batch.refuse(message, error)
    read = len(source.messages)
    return Outcomes(
        batch=source,
        rows=batch.rows,
        ids=list(batch.owners),
        owners=list(batch.owners.values()),
        dead=batch.dead,
        dead_owners=batch.dead_owners,
        settled=batch.settled,
        repeated=batch.repeated,
        stored=batch.stored,
        duplicate=read - batch.stored - len(batch.dead) + batch.partly_dead,
        dead_messages=len(batch.dead) - batch.partly_dead,
    )


@lru_cache(maxsize=65_536)
def _dispatch(subject: str) -> tuple[Route, Handler]:
    route = parse_subject(subject)
    return route, HANDLERS[route.kind]


def refused_by_store(source: NatsBatch, sqlstate: str, reason: str) -> Outcomes:
    """The outcome of the only message of a batch when PostgreSQL does not take it."""
    letter = DeadLetter(source.messages[0], "store", sqlstate, f"PostgreSQL refused it: {reason}")
    return Outcomes(source, {}, [], [], [letter], [0], set(), set(), dead_messages=1)
