"""A short version of `make fuzz`, without a fuzzer: the seeds, and changes to them by a fixed chance."""

from collections.abc import Callable
from datetime import UTC, datetime
from math import nan
from random import Random
from time import monotonic
from typing import Any

import msgspec
import pytest

from connectors.lanes import LaneParser
from flows.alert_rules import Rule, Rules
from flows.events import Outcomes
from flows.validate import validate
from realtime.auth import Identity
from tests.fuzz import decoder, patches, rules, scrubbing, tokens, wire
from tests.fuzz.target import Target, scramble
from tests.unit.test_lanes import Recorder, RecordingLane

TARGETS = [module.TARGET for module in (decoder, scrubbing, patches, rules, tokens, wire)]
SECONDS = 1.5


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_no_input_breaks_a_promise(target: Target) -> None:
    random, seeds, words = Random(target.name), target.seeds(), target.words()
    for seed in seeds:
        target.check(seed)
    until = monotonic() + SECONDS
    while monotonic() < until:
        data = random.choice(seeds)
        for _ in range(random.randint(1, 4)):
            if target.mutate is not None and random.random() < 0.5:
                data = target.mutate(data, random)
            else:
                data = scramble(data, words, random)
        data = data[:20_000]
        try:
            target.check(data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise


class _Deaf(LaneParser):
    """Skips what it cannot cut."""

    async def parse(self, data: bytes = b"") -> None:
        if b"HMSG" not in data:
            await super().parse(data)


def _without_dead(outcomes: Outcomes) -> Outcomes:
    return msgspec.structs.replace(outcomes, dead=[], dead_owners=[])


def _with_nul(outcomes: Outcomes) -> Outcomes:
    rows = {table: [(row[0], "\0", *row[2:]) for row in found] for table, found in outcomes.rows.items()}
    return msgspec.structs.replace(outcomes, rows=rows)


def _deaf_reader(claimed: list[int]) -> tuple[LaneParser, Recorder, list[RecordingLane]]:
    client = Recorder()
    return _Deaf(client), client, []


class _Trusting:
    async def verify(self, token: str) -> Identity:
        return Identity("somebody", frozenset(), datetime.now(UTC))


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (decoder, "validate", lambda batch: _without_dead(validate(batch))),
        (decoder, "validate", lambda batch: _with_nul(validate(batch))),
        (scrubbing, "scrub_text", lambda text: text),
        (scrubbing, "scrub_text", lambda text: text.replace("a", "ab")),
        (scrubbing, "scrub", lambda value: value),
        (patches, "patched", lambda text, edits: text.upper()),
        (
            rules,
            "parse",
            lambda text, name: Rules.model_construct(rules=[Rule.model_construct(name="r", signal="calls", above=nan)]),
        ),
        (wire, "lane_reader", _deaf_reader),
        (tokens, "_authenticator", _Trusting),
    ],
)
def test_a_target_notices_what_is_broken(
    where: Any, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        _check_all(where)


def _check_all(where: Any) -> None:
    for seed in where.seeds():
        where.check(seed)
