"""Whatever comes, each message ends as exactly one of stored, duplicate and dead letter."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.messages import NatsSourceMessage
from flows.events import Outcomes
from flows.validate import validate
from tests.support.messages import batch, message
from tests.support.strategies import EVENTS, messages


def check(result: Outcomes) -> None:
    """The account balances, and says what rows and dead letters there are."""
    assert min(result.stored, result.duplicate, result.dead_messages) >= 0
    assert result.stored + result.duplicate + result.dead_messages == len(result.batch.messages)
    keys = Counter(row[0] for rows in result.rows.values() for row in rows)
    positions = keys.pop(None, 0)
    assert keys.keys() == set(result.ids)
    assert len(set(result.ids)) == len(result.ids) == len(result.owners)
    assert bool(result.stored) == bool(keys or positions)
    assert result.stored <= len(result.ids) + positions
    assert len(result.dead) == len(result.dead_owners)
    whole = [owner for owner, letter in zip(result.dead_owners, result.dead, strict=True) if letter.element is None]
    assert len(set(whole)) == len(whole) <= result.dead_messages <= len(set(result.dead_owners))
    assert not set(whole) & (set(result.owners) | result.settled)
    for owner, letter in zip(result.dead_owners, result.dead, strict=True):
        assert letter.stage
        assert letter.code
        assert letter.reason
        original = result.batch.messages[owner]
        assert letter.message.sequence == original.sequence
        assert letter.message == original or letter.element is not None


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=30))
def test_every_message_is_stored_a_duplicate_or_a_dead_letter(those: list[NatsSourceMessage]) -> None:
    check(validate(batch(*those)))


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=30), st.data())
def test_so_it_is_after_what_the_database_knows_is_dropped(those: list[NatsSourceMessage], data: st.DataObject) -> None:
    result = validate(batch(*those))
    before = validate(batch(*those))
    known = set(data.draw(st.lists(st.sampled_from(result.ids)))) if result.ids else set()
    result.drop_known(known)
    check(result)
    assert result.ids == [key for key in before.ids if key not in known]
    assert {table: rows for table, rows in result.rows.items() if rows} == {
        table: left for table, rows in before.rows.items() if (left := [row for row in rows if row[0] not in known])
    }
    assert result.dead == before.dead
    again = msgspec.structs.asdict(result)
    result.drop_known(known)
    assert msgspec.structs.asdict(result) == again


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, min_size=1, max_size=20))
def test_a_message_fares_alone_as_it_fares_in_company_unless_it_repeats_another(those: list[NatsSourceMessage]) -> None:
    together = validate(batch(*those))
    dead = set(together.dead_owners)
    for index, one in enumerate(those):
        alone = validate(batch(one))
        assert bool(alone.dead) == (index in dead)


def test_simulated_traffic_is_stored_whole() -> None:
    result = validate(batch(*(message(subject, payload) for subject, payload in EVENTS)))
    check(result)
    assert (result.stored, result.dead) == (len(EVENTS), [])
