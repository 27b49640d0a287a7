"""Whose a message is: by its session, by its userId, and where the contract refuses it by its bytes."""

import asyncio
import json
from collections.abc import Mapping
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.admin_log import disguised, without_ids
from connectors.frames import FileFrames, HttpFrames
from connectors.messages import NatsSourceMessage
from flows.personal import Person, frame_of, names

USER = UUID("11111111-2222-4333-8444-55555555abcd")
OTHER = UUID("99999999-2222-4333-8444-55555555abcd")
NOW = 1_780_000_000_000_000_000


def message(subject: str, payload: bytes | Mapping[str, object]) -> NatsSourceMessage:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return NatsSourceMessage(subject, data, 1, NOW)


def owns(subject: str, payload: bytes | Mapping[str, object], *sessions: str) -> bool:
    return Person(USER, sessions).owns(message(subject, payload))


def test_a_message_of_a_session_is_theirs_whatever_it_holds() -> None:
    assert owns("spark.usage.mine", b"\xff\x00", "mine")
    assert owns("spark.a.b.c.d.e.f.mine", {"type": "x"}, "mine")
    assert not owns("spark.mine.other", {"type": "x"}, "mine")


@pytest.mark.parametrize("text", [str(USER), str(USER).upper(), str(USER).replace("a", "A")])
def test_a_message_that_names_them_is_theirs_in_any_case_of_letters(text: str) -> None:
    assert owns("spark.usage.other", {"userId": text, "model": "m"})
    assert owns("spark.usage.other", f'{{"\\u0075serId": "{text}", "model": "m"}}'.encode())


def test_another_users_message_that_mentions_them_is_not() -> None:
    mention = {"userId": str(OTHER), "type": "invited", "payload": {"by": str(USER), "sessionId": "sess_long_enough"}}
    assert not owns("spark.invitation.other", mention, "sess_long_enough")


def test_what_is_refused_and_mentions_them_is() -> None:
    assert owns("spark.usage.other", f"broken {USER}".encode())
    assert owns("spark.usage.other", b'{"broken": "sess_long_enough', "sess_long_enough")
    assert not owns("spark.usage.other", b'{"broken": "sess_long_enough_not', "sess_long_enough")
    assert not owns("spark.usage.other", f"broken {OTHER}".encode(), "mine")


def test_a_publishers_dead_letter_is_theirs_by_what_it_holds() -> None:
    inner = {"subject": "spark.usage.sess_long_enough", "payload": {}}
    assert owns("spark.dlq", inner, "sess_long_enough")
    assert not owns("spark.dlq", inner, "dlq", "sess_other")
    assert Person(USER, ["7"]).is_in(b'{"sessionId": "7"}')
    assert not Person(USER, ["7"]).is_in(b'{"level": "7"}')


def test_a_session_with_odd_characters_is_found_in_bytes() -> None:
    assert Person(USER, ['s"ö:/12345']).is_in('broken s"ö:/12345 x'.encode())


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20))
def test_no_bytes_are_too_odd_to_look_at(data: bytes, session: str) -> None:
    person = Person(USER, [session])
    assert person.owns(NatsSourceMessage("spark.usage.other", data + str(USER).encode(), 1, NOW))
    person.is_in(data)
    frame_of(data)
    assert names(data) != USER


def test_ids_are_disguised_wherever_they_are() -> None:
    assert without_ids(f"a {USER} b") == f"a {disguised(str(USER))} b"
    assert disguised(str(USER).upper()) == disguised(str(USER))
    assert str(USER) not in disguised(str(USER))


@pytest.mark.parametrize("frame", ["../../etc/passwd", "/etc/passwd", "ab/../../x.png", "frames/x.png", "", "ab/x.png"])
def test_a_reference_that_is_none_of_the_store_has_no_file(
    frame: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert FileFrames(tmp_path_factory.mktemp("frames")).path_of(frame) is None


def test_a_picture_of_another_address_is_not_asked_to_go() -> None:
    async def remove() -> bool:
        store = HttpFrames("https://objects.example/previews")
        try:
            return await store.remove(f"https://other.example/ab/{'0' * 32}.png")
        finally:
            await store.close()

    assert asyncio.run(remove()) is False
