"""What is published when a dead letter is replayed."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from flows.dead_letters import Letter, publication, verdict
from flows.events import Refused
from tests.support.messages import header_block

STORED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
BATCH = "spark.telemetry.batch.s"
GOOD = {"kind": "k", "data": {}}


def letter(subject: str, payload: dict[str, Any] | bytes, **more: Any) -> Letter:
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    fields: dict[str, Any] = {
        "id": 7,
        "received_at": STORED_AT,
        "stage": "validate",
        "code": "c",
        "reason": "r",
        "path": "$",
        "subject": subject,
        "stream": "SPARK",
        "seq": 5,
        "stored_at": STORED_AT,
        "element": None,
        "payload": data,
        "headers": b"",
        "replayed_at": None,
    }
    return Letter(**(fields | more))


def test_it_keeps_its_subject_its_bytes_its_identity_and_its_time() -> None:
    plan = publication(letter("spark.usage.s", b'{"model": "m"}', headers=header_block({"Nats-Msg-Id": "m-1"})))
    assert (plan.subject, plan.payload) == ("spark.usage.s", b'{"model": "m"}')
    assert plan.headers["Slate-Event-Id"] == "m-1"
    assert plan.headers["Slate-Event-Time"] == str(int(STORED_AT.timestamp() * 1000))


def test_what_was_replayed_before_keeps_the_time_and_the_identity_of_the_original() -> None:
    headers = header_block(
        {"Nats-Msg-Id": "slate-replay:1", "Slate-Event-Id": "first", "Slate-Event-Time": "1600000000123"}
    )
    plan = publication(letter("spark.usage.s", {"model": "m"}, headers=headers))
    assert plan.headers["Slate-Event-Id"] == "first"
    assert plan.headers["Slate-Event-Time"] == "1600000000123"


@pytest.mark.parametrize("envelope", [{}, {"eventId": None}, {"eventId": None, "timestamp": None}])
@pytest.mark.parametrize("element", [GOOD, GOOD | {"sessionId": None}, GOOD | {"timestamp": None}])
def test_an_element_comes_back_as_telemetry_of_its_own_also_where_its_fields_are_null(
    envelope: dict[str, Any], element: dict[str, Any]
) -> None:
    one = letter(BATCH, envelope | {"events": [element]}, element=3, headers=header_block({"Nats-Msg-Id": "b"}))
    plan = publication(one)
    assert (plan.subject, plan.headers["Slate-Event-Id"]) == ("spark.telemetry.s", "b:3")
    assert verdict(one) == "stored"


def test_elements_of_a_batch_with_the_longest_identity_keep_identities_of_their_own() -> None:
    letters = [letter(BATCH, {"eventId": "x" * 255, "events": [GOOD]}, element=index) for index in (0, 1, 9999)]
    assert len({publication(one).headers["Slate-Event-Id"] for one in letters}) == 3
    assert [verdict(one) for one in letters] == ["stored"] * 3


@pytest.mark.parametrize(
    "payload", [b"junk", b"{}", b'{"subject":"spark.dlq","payload":{}}', b'{"subject":"x","payload":{}}']
)
def test_what_names_no_subject_to_publish_on_cannot_come_back(payload: bytes) -> None:
    with pytest.raises(Refused):
        publication(letter("spark.dlq", payload, stage="publisher"))
    assert verdict(letter("spark.dlq", payload, stage="publisher")).startswith("impossible: ")
