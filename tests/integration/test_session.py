"""Sessions: the real Unity MCP server, NATS, Valkey and PostgreSQL; stand-ins for OpenAI and the editor."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from connectors.settings import Settings
from deploy.servers import ValkeyServer
from deploy.unity_mcp import UnityMcpServer
from realtime import bridge as bridge_module
from realtime import session as session_module
from realtime.auth import NotAllowedError, NotAuthenticatedError
from realtime.connection import RealtimeApiError
from realtime.happenings import CallEnded, Disconnected, Failed, Reconnected, TextDelta, TurnEnded
from realtime.session import SessionError, SparkRealtimeSession
from tests.standins.brain import Call, Turn, demo_brain, usage
from tests.standins.realtime import FakeRealtime
from tests.support.sessions import (
    JWT_SECRET,
    MCP_TOKEN,
    OPENAI_KEY,
    USER,
    Published,
    Studio,
    drain,
    kinds,
    published,
    studio,
    token,
    turn,
)
from tests.support.waiting import until

SCRIPT = Call("generateUnityScript", {"scriptName": "Player", "code": "public class Player {}"})
PREVIEW = Call("renderPreview", {"width": 64, "height": 36})


class Play:
    """Runs a scenario in a studio, and reads what was published."""

    def __init__(self, settings: Settings, unity_mcp: UnityMcpServer, directory: Path) -> None:
        self.settings = settings
        self._unity_mcp = unity_mcp
        self._directory = directory

    def __call__(self, openai: FakeRealtime, scenario: Callable[[Studio], Any], **more: Any) -> list[Published]:
        async def run() -> None:
            async with studio(self.settings, self._unity_mcp, self._directory, openai, **more) as made:
                await scenario(made)

        asyncio.run(run())
        return published(self.settings)


@pytest.fixture
def play(settings: Settings, valkey: ValkeyServer, unity_mcp: UnityMcpServer, tmp_path: Path) -> Play:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()  # what users did in earlier tests
    return Play(settings, unity_mcp, tmp_path)


def of(events: list[Published], subject: str) -> list[dict[str, Any]]:
    return [one.body for one in events if one.subject.startswith(f"spark.{subject}")]


def outputs(openai: FakeRealtime, connection: int = -1) -> dict[str, dict[str, Any]]:
    """What the model was told of its calls."""
    items = [event["item"] for event in openai.received[connection] if event["type"] == "conversation.item.create"]
    return {one["call_id"]: json.loads(one["output"]) for one in items if one["type"] == "function_call_output"}


def test_what_a_user_asks_for_is_made_shown_and_published_in_order(play: Play) -> None:
    seen: list[Any] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            seen.extend(await turn(session))
            assert (it.editor.root / "Assets/Scripts/PlayerController.cs").read_text().startswith("using UnityEngine")
            health = await session.health()
            assert (health["openai"]["connected"], health["nats"]["connected"]) == (True, True)
            assert health["unity"]["editor"]
        seen.extend(drain(session))

    events = play(FakeRealtime(brain=demo_brain), scenario)
    assert isinstance(seen[-1], Disconnected)
    assert next(one for one in seen if isinstance(one, TurnEnded)).status == "completed"
    assert {one.name for one in seen if isinstance(one, CallEnded)} == {"generateUnityScript", "renderPreview"}
    assert "".join(one.text for one in seen if isinstance(one, TextDelta)).startswith("Done: ")
    found = kinds(events)
    assert found[0] == "session.connected"
    assert found[-1] == "session.disconnected"
    runtime = [one["type"] for one in of(events, "runtime")]
    assert runtime == ["generate_unity_script.started", "generate_unity_script.completed", "script_generated"]
    script = of(events, "runtime.unity.script_generated")[0]
    assert script["prompt"] == "Create a Unity player controller"
    assert script["scriptContent"].startswith("using UnityEngine;")
    assert [one["type"] for one in of(events, "preview")] == ["preview.started", "preview.completed"]
    assert of(events, "preview")[1]["meta"] == {"cache": "miss", "width": 640, "height": 360}
    calls = {one["name"]: one for one in of(events, "function_call")}
    assert {one["status"] for one in calls.values()} == {"success"}
    assert calls["generateUnityScript"]["args"]["scriptName"] == "PlayerController"
    assert len(of(events, "usage")) == 2
    assert "".join(one["delta"]["text"] for one in of(events, "delta")).startswith("Done: Create a Unity")
    assert {one.body["userId"] for one in events} == {USER}
    ids = [one.headers["Nats-Msg-Id"] for one in events]
    assert ids == [one.body["eventId"] for one in events]
    assert len(set(ids)) == len(ids)
    times = [one.body["timestamp"] for one in events]
    assert times == sorted(times)
    code = [one.subject for one in events if "using UnityEngine" in json.dumps(one.body)]
    assert len(code) == 1


def test_calls_of_one_answer_run_side_by_side_and_are_answered_together(play: Play) -> None:
    calls = [
        Call("generateUnityScript", {"scriptName": f"S{number}", "code": "class S {}"}, f"call_{number}")
        for number in range(3)
    ]
    openai = FakeRealtime([Turn(calls=calls), Turn(text="Both are there.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session)

    play(openai, scenario)
    sent = [event["type"] for event in openai.received[0]]
    assert sent.count("response.create") == 2
    assert sent[-4:] == ["conversation.item.create"] * 3 + ["response.create"]
    assert {one["change"] for one in outputs(openai).values()} == {"created"}


def test_a_drop_amid_an_answer_is_made_good_without_doing_anything_twice(play: Play) -> None:
    openai = FakeRealtime(
        [Turn(calls=[SCRIPT]), Turn(text="It is nearly all said", drop_after=2), Turn(text="All is said.")]
    )
    seen: list[Any] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            seen.extend(await turn(session))
            creates = [p for name, p in it.editor.commands if name == "manage_script" and p["action"] == "create"]
            assert len(creates) == 1

    events = play(openai, scenario)
    assert [one.status for one in seen if isinstance(one, TurnEnded)] == ["completed"]
    assert len([one for one in seen if isinstance(one, Reconnected)]) == 1
    seeded = [event["item"] for event in openai.received[1] if event["type"] == "conversation.item.create"]
    assert [one["type"] for one in seeded] == ["message", "function_call", "function_call_output"]
    update = openai.received[1][0]
    assert len(update["session"]["tools"]) == 9
    assert len(of(events, "usage")) == 2
    unknown = [one["data"] for one in of(events, "telemetry") if one["kind"] == "usage_unknown"]
    assert len(unknown) == 1
    assert unknown[0]["responseId"].startswith("resp_")
    assert len(of(events, "error")) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011])
def test_a_connection_that_openai_closes_is_opened_anew(play: Play, code: int) -> None:
    openai = FakeRealtime([Turn(close=(code, "bye")), Turn(text="Here I am.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            assert (await turn(session))[-1] == TurnEnded("completed", "Here I am.", 0)

    events = play(openai, scenario)
    assert of(events, "error")[0]["error"] == f"closed with {code} bye"


def test_a_session_that_openai_says_is_expired_goes_on_with_another(play: Play) -> None:
    expired = {"type": "invalid_request_error", "code": "session_expired", "message": "60 minutes"}
    openai = FakeRealtime([Turn(text="never heard", error_event=expired), Turn(text="Again.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            assert (await turn(session))[-1] == TurnEnded("completed", "Again.", 0)

    play(openai, scenario)
    assert len(openai.handshakes) == 2


def test_a_connection_is_renewed_before_its_hour_is_over(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = FakeRealtime([Turn(text="One."), Turn(text="Two.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session)
            monkeypatch.setattr(session_module, "ROTATE_AFTER_S", 0.0)
            assert (await turn(session, "And now?"))[-1] == TurnEnded("completed", "Two.", 0)

    events = play(openai, scenario)
    assert len(openai.handshakes) == 2
    seeded = [event["item"]["role"] for event in openai.received[1] if event["type"] == "conversation.item.create"]
    assert seeded == ["user", "assistant", "user"]
    assert not of(events, "error")


def test_a_rate_limit_is_waited_for_as_openai_says(play: Play) -> None:
    limited = {"type": "tokens", "code": "rate_limit_exceeded", "message": "Rate limit reached"}
    limits = [{"name": "tokens", "limit": 100, "remaining": 0, "reset_seconds": 1.2}]
    openai = FakeRealtime([Turn(status="failed", error=limited, rate_limits=limits), Turn(text="Now.")])
    seen: list[Any] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            seen.extend(await turn(session))

    play(openai, scenario)
    waits = [one.retry_after_s for one in seen if isinstance(one, Failed)]
    assert len(waits) == 1
    assert waits[0] == pytest.approx(1.2, abs=0.3)
    assert seen[-1] == TurnEnded("completed", "Now.", 0)


def test_arguments_that_are_not_usable_and_tools_that_do_not_exist_are_told_to_the_model(play: Play) -> None:
    calls = [
        Call("generateUnityScript", '{"scriptName": "A"', "cut"),
        Call("generateUnityScript", {"scriptName": "A", "code": "x", "folder": "Assets/../.."}, "outside"),
        Call("deleteEverything", {}, "unknown"),
    ]
    openai = FakeRealtime([Turn(calls=calls), Turn(text="Sorry.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            assert (await turn(session))[-1] == TurnEnded("completed", "Sorry.", 3)
            assert not [name for name, _ in it.editor.commands if name == "manage_script"]

    events = play(openai, scenario)
    told = outputs(openai)
    assert "Invalid JSON" in told["cut"]["error"]
    assert "must be below Assets/" in told["outside"]["error"]
    assert "there is no tool" in told["unknown"]["error"]
    assert [one["status"] for one in of(events, "function_call")] == ["failed"] * 3


def test_a_tool_that_unity_refuses_is_an_output_and_the_session_goes_on(play: Play) -> None:
    refused = Call("generateUnityScript", {"scriptName": "ErrPlayer", "code": "class {"}, "call_1")
    openai = FakeRealtime([Turn(calls=[refused]), Turn(text="It has a fault."), Turn(text="Yes?")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session)
            assert (await turn(session, "Still there?"))[-1] == TurnEnded("completed", "Yes?", 0)

    events = play(openai, scenario)
    assert "validation_failed" in outputs(openai)["call_1"]["error"]
    assert [one["type"] for one in of(events, "runtime")][-1] == "generate_unity_script.failed"


def test_a_model_that_never_stops_calling_is_stopped(play: Play) -> None:
    openai = FakeRealtime(brain=lambda items: Turn(calls=[Call("getBuildStatus", {"jobId": f"j{len(items)}"})]))
    seen: list[Any] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            seen.extend(await turn(session))

    events = play(openai, scenario)
    assert seen[-1] == TurnEnded("incomplete", "", 12, "rounds_exceeded")
    assert "rounds_exceeded" in [one["kind"] for one in of(events, "telemetry")]


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
def test_calls_of_an_answer_that_was_cut_off_are_not_made(play: Play, reason: str) -> None:
    openai = FakeRealtime([Turn(calls=[SCRIPT], status="incomplete", reason=reason)])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            assert (await turn(session))[-1] == TurnEnded("incomplete", "", 0, reason)
            assert not [name for name, _ in it.editor.commands if name == "manage_script"]

    play(openai, scenario)


def test_an_input_interrupts_the_answer_before_it(play: Play) -> None:
    openai = FakeRealtime([Turn(text="one two three four " * 20, delay=0.05), Turn(text="Yes.")])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            first = await session.send_user_input("Tell me a long story")
            await until(lambda: any(isinstance(one, TextDelta) for one in session._happenings))
            second = await session.send_user_input("Stop. Are you there?")
            assert (await first).status == "cancelled"
            assert await second == TurnEnded("completed", "Yes.", 0)

    play(openai, scenario)
    assert "response.cancel" in [event["type"] for event in openai.received[0]]


def test_cancel_ends_a_turn_and_is_harmless_without_one(play: Play) -> None:
    openai = FakeRealtime([Turn(text="one two three four " * 20, delay=0.05)])

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await session.cancel()
            first = await session.send_user_input("Tell me a long story")
            await until(lambda: any(isinstance(one, TextDelta) for one in session._happenings))
            await session.cancel()
            assert (await first).status == "cancelled"
            await session.cancel()

    play(openai, scenario)


def test_usage_is_published_once_for_each_answer_with_its_exact_cost(play: Play) -> None:
    sample = usage(text_in=119, text_out=30, cached_text=64, audio_in=13, audio_out=91)
    openai = FakeRealtime([Turn(text="Hello.", usage=sample)])

    async def scenario(it: Studio) -> None:
        async with it.session(model="gpt-realtime") as session:
            await turn(session)

    events = play(openai, scenario)
    (used,) = of(events, "usage")
    assert (used["tokensPrompt"], used["tokensCompletion"], used["costEstimate"]) == (132, 121, 0.0069656)
    assert used["cachedTokens"] == 64


def test_a_model_without_a_price_is_said_to_be_unpriced(play: Play) -> None:
    openai = FakeRealtime([Turn(text="Hello.")])

    async def scenario(it: Studio) -> None:
        async with it.session(model="gpt-of-tomorrow") as session:
            await turn(session)

    events = play(openai, scenario)
    assert "costEstimate" not in of(events, "usage")[0]
    assert [one["data"] for one in of(events, "telemetry") if one["kind"] == "usage_unpriced"] == [
        {"model": "gpt-of-tomorrow"}
    ]


@pytest.mark.parametrize("mode", ["creative", "deterministic", "hybrid"])
def test_no_mode_sends_what_the_api_does_not_know(play: Play, mode: Any) -> None:
    openai = FakeRealtime([Turn(text="Hello.")])

    async def scenario(it: Studio) -> None:
        async with it.session(mode=mode) as session:
            assert (await turn(session))[-1] == TurnEnded("completed", "Hello.", 0)

    events = play(openai, scenario)
    assert openai.received[0][0]["session"]["output_modalities"] == ["text"]
    assert of(events, "session.connected")[0]["mode"] == mode


def test_a_key_that_openai_refuses_ends_it_at_once(play: Play) -> None:
    openai = FakeRealtime([], api_key="another")

    async def scenario(it: Studio) -> None:
        with pytest.raises(RealtimeApiError, match="OPENAI_REALTIME_API_KEY") as refused:
            await it.session().connect()
        assert refused.value.fatal
        assert OPENAI_KEY not in str(refused.value)

    assert play(openai, scenario) == []
    assert len(openai.handshakes) == 1


def test_a_session_update_that_is_refused_is_not_worked_with(play: Play) -> None:
    openai = FakeRealtime([], refuse_update="invalid_value")

    async def scenario(it: Studio) -> None:
        with pytest.raises(RealtimeApiError, match="invalid_value"):
            await it.session().connect()

    assert play(openai, scenario) == []


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
        async with it.session(token=token(permissions=("spark:admin",)), user_id=other) as session:
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
            with pytest.raises(Exception, match="come back in"):
                await it.session().connect()
            await turn(session)
            await turn(session)
            with pytest.raises(Exception, match="limit of 2 day") as refused:
                await session.send_user_input("And three?")
            assert 86_000 < getattr(refused.value, "retry_after_s", 0) <= 86_400
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
            with pytest.raises(Exception, match="150 tokens of this month are used up"):
                await session.send_user_input("And three?")
        with pytest.raises(Exception, match="come back in"):
            await it.session().connect()

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


def test_a_project_that_cannot_be_reached_is_left_alone_and_said_to_be_once(
    play: Play, unity_mcp: UnityMcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "ATTEMPTS", 1)
    calls = [Call("deconstructAsset", {"path": "Assets/A.prefab"}, f"call_{number}") for number in range(7)]
    openai = FakeRealtime([Turn(calls=calls), Turn(text="It is away.")])
    monkeypatch.setattr(session_module, "CALLS_AT_ONCE", 1)

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            unity_mcp.kill()
            assert (await turn(session))[-1] == TurnEnded("completed", "It is away.", 7)
            assert (await session.health())["unity"]["breaker"] == "open"

    events = play(openai, scenario)
    told = outputs(openai)
    assert [("retryAfterS" in told[f"call_{number}"]) for number in range(7)] == [False] * 5 + [True] * 2
    assert "no Unity MCP server" in told["call_0"]["error"]
    assert told["call_6"]["retryAfterS"] > 50
    assert [one["type"] for one in of(events, "runtime")] == ["circuit_breaker.opened"]


def test_a_build_is_told_of_until_it_is_over(play: Play) -> None:
    openai = FakeRealtime([Turn(calls=[Call("runBuild", {"target": "webgl"})]), Turn(text="It builds.")])

    async def scenario(it: Studio) -> None:
        it.editor.build_s = 0.5
        async with it.session() as session:
            await turn(session)
            await until(lambda: it.backend.events.pending == 0 and not session._bridge._polls, 20)

    events = of(play(openai, scenario), "build")
    steps = [one["type"] for one in events]
    assert (steps[0], steps[-1]) == ("build_started", "build_completed")
    assert set(steps[1:-1]) == {"build_progress"}
    assert len({one["jobId"] for one in events}) == 1


def test_a_hundred_sessions_share_a_process_and_never_mix(play: Play) -> None:
    def brain(items: list[dict[str, Any]]) -> Turn:
        return Turn(text=items[-1]["content"][0]["text"].upper())

    async def scenario(it: Studio) -> None:
        sessions = [it.session(f"00000000-0000-4000-8000-{number:012}") for number in range(100)]
        await asyncio.gather(*(one.connect() for one in sessions))
        turns = await asyncio.gather(*(turn(one, f"i am {one.user_id}") for one in sessions))
        for one, seen in zip(sessions, turns, strict=True):
            assert seen[-1] == TurnEnded("completed", f"I AM {one.user_id.upper()}", 0)
        await asyncio.gather(*(one.disconnect() for one in sessions))

    events = play(FakeRealtime(brain=brain), scenario)
    by_session: dict[str, list[Published]] = {}
    for one in events:
        by_session.setdefault(one.body["sessionId"], []).append(one)
    assert len(by_session) == 100
    for found in by_session.values():
        assert len({one.body["userId"] for one in found}) == 1
        numbers = [int(one.body["eventId"].rpartition(":")[2]) for one in found]
        assert numbers == list(range(1, len(found) + 1))
