"""Sessions: the real Unity MCP server, NATS, Valkey and PostgreSQL; stand-ins for OpenAI and the editor."""

import asyncio
import json
from typing import Any

import pytest

from deploy.unity_mcp import UnityMcpServer
from realtime import bridge as bridge_module
from realtime import dialogue as dialogue_module
from realtime import session as session_module
from realtime.connection import RealtimeApiError
from realtime.happenings import CallEnded, Disconnected, Failed, Reconnected, TextDelta, TurnEnded
from tests.standins.brain import Call, Turn, demo_brain, usage
from tests.standins.realtime import FakeRealtime
from tests.support.sessions import (
    USER,
    Play,
    Published,
    Studio,
    drain,
    kinds,
    of,
    outputs,
    turn,
)
from tests.support.waiting import until

SCRIPT = Call("generateUnityScript", {"scriptName": "Player", "code": "public class Player {}"})
PREVIEW = Call("renderPreview", {"width": 64, "height": 36})


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
            monkeypatch.setattr(dialogue_module, "ROTATE_AFTER_S", 0.0)
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


def test_a_session_update_that_is_refused_is_not_worked_with(play: Play) -> None:
    openai = FakeRealtime([], refuse_update="invalid_value")

    async def scenario(it: Studio) -> None:
        with pytest.raises(RealtimeApiError, match="invalid_value"):
            await it.session().connect()

    assert play(openai, scenario) == []


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
