"""Sessions: who may hold them, how much a user may use, and what never leaves."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from connectors.limits import LimitExceededError
from connectors.settings import Settings
from realtime.auth import NotAllowedError, NotAuthenticatedError
from realtime.connection import RealtimeApiError
from realtime.happenings import Disconnected, TurnEnded
from realtime.quota import QuotaExceededError
from realtime.session import SessionError, SparkRealtimeSession
from tests.standins.brain import Call, Turn, usage
from tests.standins.realtime import FakeRealtime
from tests.support.sessions import (
    JWT_SECRET,
    MCP_TOKEN,
    OPENAI_KEY,
    USER,
    Play,
    Studio,
    kinds,
    token,
    turn,
)
from tests.support.stack import connect

SCRIPT = Call("generateUnityScript", {"scriptName": "Player", "code": "public class Player {}"})
PREVIEW = Call("renderPreview", {"width": 64, "height": 36})


def test_a_key_that_openai_refuses_ends_it_at_once(play: Play) -> None:
    openai = FakeRealtime([], api_key="another")

    async def scenario(it: Studio) -> None:
        with pytest.raises(RealtimeApiError, match="OPENAI_REALTIME_API_KEY") as refused:
            await it.session().connect()
        assert refused.value.fatal
        assert OPENAI_KEY not in str(refused.value)

    assert play(openai, scenario) == []
    assert len(openai.handshakes) == 1


def test_a_token_that_is_not_good_gets_nothing(play: Play) -> None:
    openai = FakeRealtime([Turn(text="never")])
    other = "00000000-0000-4000-8000-000000000001"

    async def scenario(it: Studio) -> None:
        for bad in ("", "x.y.z", token()[:-3], token(aud="other"), token(exp=1)):
            with pytest.raises(NotAuthenticatedError):
                await it.session(token=bad).connect()
        with pytest.raises(NotAllowedError, match="spark:generate"):
            await it.session(token=token(permissions=("spark:read",))).connect()
        with pytest.raises(NotAllowedError, match="spark:admin"):
            await it.session(user_id=other).connect()
        admin = token(permissions=("spark:admin",))
        for wrong in ("", "somebody", f"{other}\n"):
            with pytest.raises(NotAllowedError, match="UUID"):
                await it.session(token=admin, user_id=wrong).connect()
        async with it.session(token=admin, user_id=other) as session:
            assert session.user_id == other

    events = play(openai, scenario)
    assert {one.body["userId"] for one in events} == {other}
    assert len(openai.handshakes) == 1


def test_a_token_that_expires_meanwhile_ends_the_inputs_until_it_is_renewed(play: Play) -> None:
    openai = FakeRealtime([Turn(text="Yes.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            session.renew_token(token(exp=1))
            with pytest.raises(NotAuthenticatedError, match="expired"):
                await session.send_user_input("Hello?")
            session.renew_token(token())
            assert (await turn(session, "Hello?"))[-1] == TurnEnded("completed", "Yes.", 0)

    play(openai, scenario)


def test_a_session_is_not_used_before_or_after_its_time(play: Play) -> None:
    async def scenario(it: Studio) -> None:
        session = it.session()
        assert await session.health() == {"session": session.session_id, "open": False}
        with pytest.raises(SessionError, match="connect"):
            await session.send_user_input("Hello?")
        await session.connect()
        for bad in ("", "   ", "x" * 32_001):
            with pytest.raises(SessionError, match="1 to 32000 characters"):
                await session.send_user_input(bad)
        await session.disconnect()
        await session.disconnect()
        with pytest.raises(SessionError):
            await session.connect()
        assert [one async for one in session] == [Disconnected()]

    play(FakeRealtime([]), scenario)


def test_personal_things_leave_the_session_in_no_event(play: Play) -> None:
    text = "My mail is jane.doe@example.com. My card is 4111 1111 1111 1111, call +1 415 555 0132. Done now."
    call = Call("createUnityMaterial", {"path": "Assets/Red.mat", "shader": "jane.doe@example.com"})
    openai = FakeRealtime([Turn(calls=[call, SCRIPT]), Turn(text=text, chunk=3)])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session, f"Write that down: {text} password=swordfish7x")

    events = play(openai, scenario)
    everything = json.dumps([one.body for one in events])
    for personal in ("jane.doe", "4111", "555 0132", "swordfish7x"):
        assert personal not in everything
    assert "[email]" in everything


def test_no_secret_is_in_a_log_an_event_or_a_representation(
    play: Play, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    structlog.reset_defaults()
    openai = FakeRealtime([Turn(close=(1011, "bye")), Turn(calls=[SCRIPT, PREVIEW]), Turn(text="Done.")])
    secrets = [OPENAI_KEY, JWT_SECRET, MCP_TOKEN, play.settings.nats_servers()[0].rpartition("@")[0].rpartition(":")[2]]
    shown: list[str] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            secrets.append(token())
            await turn(session)
            shown.extend([repr(session), repr(it.backend), repr(it.backend.settings), str(await session.health())])

    events = play(openai, scenario)
    out, err = capfd.readouterr()
    everything = "\n".join([out, err, caplog.text, *shown, json.dumps([one.body for one in events])])
    assert "closed with 1011" in everything
    for secret in secrets:
        assert secret not in everything


def test_limits_of_a_user_say_when_to_come_back(play: Play) -> None:
    openai = FakeRealtime([Turn(text="One."), Turn(text="Two.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            with pytest.raises(LimitExceededError, match="come back in"):
                await it.session().connect()
            await turn(session)
            await turn(session)
            with pytest.raises(LimitExceededError, match="limit of 2 inputs a day") as refused:
                await session.send_user_input("And three?")
            assert 86_000 < refused.value.retry_after_s <= 86_400
        async with it.session():
            pass

    play(openai, scenario, quota_sessions=1, quota_inputs=2)


def test_tokens_of_the_month_are_counted_over_sessions(play: Play) -> None:
    openai = FakeRealtime([Turn(text="One.", usage=usage(70, 20)), Turn(text="Two.", usage=usage(70, 20))])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session)
        async with it.session() as session:
            await turn(session)
            with pytest.raises(QuotaExceededError, match="150 tokens of this month are used up"):
                await session.send_user_input("And three?")
        with pytest.raises(QuotaExceededError, match="come back in"):
            await it.session().connect()

    play(openai, scenario, quota_tokens=150)


def test_tokens_that_postgresql_knows_of_count_too_and_those_of_other_months_and_users_do_not(play: Play) -> None:
    openai = FakeRealtime([Turn(text="One.")])
    other = "00000000-0000-4000-8000-000000000002"
    used = "INSERT INTO spark_usage (session_id, ts, model, tokens_prompt, user_id) VALUES ('s', %s, 'm', 150, %s)"
    now = datetime.now(UTC)
    with connect(play.settings) as connection:
        connection.execute(used, (now.replace(day=1, hour=0, minute=0), USER))
        connection.execute(used, (now.replace(day=1, hour=0, minute=0) - timedelta(hours=1), other))

    async def scenario(it: Studio) -> None:
        with pytest.raises(QuotaExceededError, match="150 tokens of this month are used up"):
            await it.session().connect()
        async with it.session(other) as session:
            await turn(session)

    play(openai, scenario, quota_tokens=150)


def test_a_session_may_have_a_backend_of_its_own(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = FakeRealtime([Turn(text="Hello.")])

    async def scenario(it: Studio) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Settings, "load", lambda: it.backend.settings)
            session = SparkRealtimeSession(token=token(), user_id=USER, mode="creative")
            await session.connect()
        assert (await turn(session))[-1] == TurnEnded("completed", "Hello.", 0)
        await session.disconnect()

    events = play(openai, scenario)
    assert kinds(events)[-1] == "session.disconnected"
