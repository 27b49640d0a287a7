"""Subjects, identities, and the account of a batch."""

from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.events import (
    BUILD_STATUS,
    EARLIEST_MS,
    ENGINES,
    EVENT_ID_HEADER,
    MAX_IDENTIFIER,
    MAX_REASON,
    Kind,
    Refused,
    Route,
    identity_key,
    jetstream_identity,
    parse_subject,
    uuid_bytes,
)
from tests.support.messages import PROJECT, USER, message, outcomes

USAGE = "spark.usage.s"


@pytest.mark.parametrize(
    ("subject", "route"),
    [
        ("spark.session.connected.s-1", Route(Kind.CONNECTED, "s-1")),
        ("spark.session.disconnected.s-1", Route(Kind.DISCONNECTED, "s-1")),
        ("spark.function_call.s-1", Route(Kind.FUNCTION_CALL, "s-1")),
        ("spark.telemetry.s-1", Route(Kind.TELEMETRY, "s-1")),
        ("spark.telemetry.batch.s-1", Route(Kind.TELEMETRY_BATCH, "s-1")),
        ("spark.usage.s-1", Route(Kind.USAGE, "s-1")),
        ("spark.preview.unity.frame.s-1", Route(Kind.PREVIEW, "s-1", "unity", "frame")),
        ("spark.runtime.renpy.patch_applied.s-1", Route(Kind.RUNTIME, "s-1", "renpy", "patch_applied")),
        ("spark.build.pico8.timeout.s-1", Route(Kind.BUILD, "s-1", "pico8", "timeout")),
        ("spark.delta.s-1", Route(Kind.DELTA, "s-1")),
        ("spark.error.s-1", Route(Kind.ERROR, "s-1")),
        ("spark.presence.s-1", Route(Kind.OTHER, "s-1")),
        ("spark.a.b.c.d.e.s-1", Route(Kind.OTHER, "s-1")),
        ("spark.dlq", Route(Kind.DLQ, "")),
    ],
)
def test_a_subject_says_kind_session_engine_and_step(subject: str, route: Route) -> None:
    assert parse_subject(subject) == route


@pytest.mark.parametrize(
    "subject",
    [
        "spark.s",
        "spark.dlq.s",
        "spark.session.renamed.s",
        "spark.session.s",
        "spark.usage.daily.s",
        "spark.preview.unity.s",
        "spark.preview.unity.frame.first.s",
        "spark.build.s",
        "spark.USAGE.s",
    ],
)
def test_a_subject_that_only_resembles_one_of_the_contract_is_any_other_event(subject: str) -> None:
    assert parse_subject(subject) == Route(Kind.OTHER, "s")


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("kind", ["preview", "runtime"])
def test_every_engine_of_the_contract_is_known(kind: str, engine: str) -> None:
    assert parse_subject(f"spark.{kind}.{engine}.any_step.s").engine == engine


def test_the_engines_and_build_steps_are_those_of_the_contract() -> None:
    assert sorted(ENGINES) == sorted(["unity", "godot", "pico8", "gamemaker", "rpgmaker", "construct", "renpy"])
    assert sorted(BUILD_STATUS) == sorted(["started", "progress", "completed", "failed", "timeout"])
    assert datetime.fromtimestamp(EARLIEST_MS / 1000, UTC) == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("subject", "code", "reason"),
    [
        ("spark.preview.unreal.frame.s", "unknown_value", "unknown engine 'unreal'; known are construct, gamemaker"),
        ("spark.preview..frame.s", "unknown_value", "unknown engine ''"),
        ("spark.runtime.Unity.patch_applied.s", "unknown_value", "unknown engine 'Unity'"),
        ("spark.build.unity.paused.s", "unknown_value", "unknown build step 'paused'; known are started, progress"),
        ("spark.usage." + "s" * 256, "too_long", "session id has 256 characters, more than 255"),
        ("spark.usage.a\0b", "nul", "NUL"),
        ("spark.usage.a\ufffdb", "not_utf8", "not UTF-8"),
        ("other.usage.s", "foreign", "'other.usage.s' is outside spark.>"),
        ("spark", "foreign", "'spark' is outside spark.>"),
    ],
)
def test_a_subject_that_cannot_be_is_refused_in_words(subject: str, code: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_subject(subject)
    assert (caught.value.stage, caught.value.code, caught.value.path) == ("subject", code, "")
    assert reason in caught.value.reason


def test_a_session_id_may_have_255_characters_of_any_script() -> None:
    assert parse_subject("spark.usage." + "语" * 255).session_id == "语" * 255


@given(st.text() | st.text(alphabet="spark.dlqusage\0 ").map("spark.".__add__))
def test_any_subject_is_parsed_or_refused(subject: str) -> None:
    with suppress(Refused):
        route = parse_subject(subject)
        assert route.kind is Kind.DLQ or 0 < len(route.session_id) <= MAX_IDENTIFIER


@given(st.uuids())
def test_a_uuid_is_read_in_either_case(uuid: UUID) -> None:
    assert uuid_bytes(str(uuid)) == uuid_bytes(str(uuid).upper()) == uuid.bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "me",
        USER.replace("-", ""),
        "{" + USER + "}",
        "urn:" + USER.replace("-", ""),
        "----" + USER.replace("-", ""),
        USER[:-1],
        USER + "0",
        USER[:-1] + "g",
        USER[:-1] + "_",
        USER[:-1] + "\u0661",
        " " + USER[1:],
    ],
)
def test_only_the_standard_form_of_a_uuid_is_one(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text goes nowhere
        uuid_bytes(text)


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_identities_have_different_keys_of_16_bytes(one: str, other: str) -> None:
    assume(one != other)
    assert identity_key(one) != identity_key(other)
    assert len(identity_key(one)) == 16
    assert identity_key(one) == identity_key(one)


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({}, None),
        ({"Other": "x"}, None),
        ({"Nats-Msg-Id": ""}, None),
        ({"Nats-Msg-Id": "  "}, None),
        ({"Nats-Msg-Id": "m-1"}, "m-1"),
        ({"Nats-Msg-Id": "  m-1  "}, "m-1"),
        ({"nats-msg-id": "m-1"}, None),
        ({"X-Nats-Msg-Id": "m-1"}, None),
        ({"Other": "Nats-Msg-Id: no", "Nats-Msg-Id": "m-1"}, "m-1"),
        ({"Nats-Msg-Id": "a:b: c"}, "a:b: c"),
        ({"Nats-Msg-Id": "Ü语😀"}, "Ü语😀"),
        ({"Nats-Msg-Id": "x" * 255}, "x" * 255),
        ({EVENT_ID_HEADER: "original", "Nats-Msg-Id": "m-1"}, "original"),
        ({EVENT_ID_HEADER: "", "Nats-Msg-Id": "m-1"}, "m-1"),
    ],
)
def test_the_message_id_is_the_identity_unless_a_replay_names_the_original(
    headers: dict[str, str | bytes], identity: str | None
) -> None:
    assert jetstream_identity(message(USAGE, b"", headers)) == identity


@pytest.mark.parametrize("value", [b"\xff\xfe", b"x" * 256, b"a\0b"])
def test_a_message_id_that_is_no_text_of_a_key_is_refused(value: bytes) -> None:
    with pytest.raises(Refused) as caught:
        jetstream_identity(message(USAGE, b"", {"Nats-Msg-Id": value}))
    assert (caught.value.stage, caught.value.code) == ("validate", "identity")
    assert "Nats-Msg-Id" in caught.value.reason


def test_a_reason_is_cut_at_a_length_that_a_notice_can_carry() -> None:
    assert Refused("validate", "x", "y" * MAX_REASON).reason == "y" * MAX_REASON
    assert Refused("validate", "x", "y" * 1_000_000).reason == "y" * (MAX_REASON - 1) + "…"


def test_what_is_known_already_becomes_a_duplicate_and_its_rows_are_gone() -> None:
    result = outcomes(
        message("spark.session.connected.s", {"eventId": "known", "userId": USER, "projectId": PROJECT}),
        message(USAGE, {"model": "m", "eventId": "new"}),
        message(USAGE, {"model": "m"}),
    )
    result.drop_known({identity_key("known"), identity_key("of another batch")})
    assert (result.stored, result.duplicate, result.dead_messages) == (2, 1, 0)
    assert {table: [row[0] for row in rows] for table, rows in result.rows.items() if rows} == {
        "spark_usage": [identity_key("new"), None]
    }
    assert result.ids == [identity_key("new")]


def test_a_batch_is_a_duplicate_only_when_each_of_its_elements_is_known() -> None:
    def fresh() -> tuple[str, dict[str, object]]:
        elements: list[object] = [{"kind": "k", "data": {}, "eventId": name} for name in ("one", "two")]
        return "spark.telemetry.batch.s", {"events": elements}

    one, two = identity_key("one"), identity_key("two")
    half = outcomes(message(*fresh()))
    half.drop_known({one})
    assert (half.stored, half.duplicate, half.dead_messages, half.ids) == (1, 0, 0, [two])
    half.drop_known({two})
    assert (half.stored, half.duplicate, half.dead_messages, half.ids) == (0, 1, 0, [])


def test_a_batch_of_one_known_and_one_bad_element_is_a_dead_letter_in_the_account() -> None:
    elements: list[object] = [{"kind": "k", "data": {}, "eventId": "one"}, {"kind": "k", "data": 7}]
    result = outcomes(message("spark.telemetry.batch.s", {"events": elements}))
    assert (result.stored, result.duplicate, result.dead_messages) == (1, 0, 0)
    result.drop_known({identity_key("one")})
    assert (result.stored, result.duplicate, result.dead_messages) == (0, 0, 1)
    assert len(result.dead) == 1


def test_a_batch_with_an_element_that_only_its_position_identifies_stays_stored() -> None:
    elements = [{"kind": "k", "data": {}, "eventId": "one"}, {"kind": "k", "data": {}}]
    result = outcomes(message("spark.telemetry.batch.s", {"events": elements}))
    result.drop_known({identity_key("one")})
    assert (result.stored, result.duplicate, result.dead_messages) == (1, 0, 0)
    assert [row[0] for row in result.rows["spark_telemetry"]] == [None]
