"""The bridge on the real Unity MCP server, with a stand-in for the editor only."""

import asyncio
import json
from pathlib import Path

import pytest
import redis.asyncio
from pydantic import SecretStr

from connectors.breaker import CircuitOpenError
from connectors.errors import PublishError
from connectors.unity import (
    UnityBusyError,
    UnityOutcomeUnknownError,
    UnityRefusedError,
    UnityServer,
    UnityUnavailableError,
)
from deploy.servers import ValkeyServer
from deploy.unity_mcp import UnityMcpServer
from realtime import bridge as bridge_module
from realtime.bridge import sha256
from realtime.builds import Build
from realtime.patch import PatchError
from tests.standins.editor import Editor
from tests.support.unity import bridging, connected, editing
from tests.support.waiting import until

CODE = "using UnityEngine;\n\npublic class Player : MonoBehaviour\n{\n    private float speed = 4f;\n}\n"
PATCH = """--- a/Assets/Scripts/Player.cs
+++ b/Assets/Scripts/Player.cs
@@ -4,3 +4,4 @@
 {
-    private float speed = 4f;
+    private float speed = 6f;
+    private int lives = 3; // ж 🎮
 }
"""
PATH = "Assets/Scripts/Player.cs"


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "ATTEMPTS", 1)


def test_each_tool_does_in_the_project_what_it_says(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            assert (await unity.write_script(PATH, CODE)).change == "created"
            assert (editor.root / PATH).read_text() == CODE
            again = await unity.write_script(PATH, CODE)
            assert (again.change, again.sha256) == ("unchanged", sha256(CODE))
            assert (await unity.write_script(PATH, CODE.replace("4f", "5f"))).change == "updated"
            assert (editor.root / PATH).read_text() == CODE.replace("4f", "5f")
            prefab = "Assets/Prefabs/Player.prefab"
            assert (await unity.create_prefab(prefab, "Capsule", ["Rigidbody"]))["path"] == prefab
            assert json.loads((editor.root / prefab).read_text())["components"] == ["Rigidbody"]
            with pytest.raises(UnityRefusedError, match="is there already"):
                await unity.create_prefab(prefab, None, [])
            material = "Assets/Materials/Red.mat"
            await unity.create_material(material, "Standard", [1.0, 0.0, 0.0])
            assert json.loads((editor.root / material).read_text())["shader"] == "Standard"
            assert (await unity.ingest_asset(material))["size"] > 0
            about = await unity.deconstruct_asset(prefab)
            assert [one["typeName"] for one in about["components"]] == ["Transform", "MeshRenderer"]
            with pytest.raises(UnityRefusedError, match="not found"):
                await unity.ingest_asset("Assets/Nothing.fbx")
            preview = await unity.preview(None, 128, 72)
            assert (preview.width, preview.height, preview.cached) == (128, 72, False)
            assert (tmp_path / "frames" / preview.frame_ref).read_bytes().startswith(b"\x89PNG")
            health = await unity.health()
            assert health == {"instance": editor.instance, "breaker": "closed", "server": True, "editor": True}

    asyncio.run(scenario())


def test_a_patch_changes_what_it_was_made_for_and_nothing_else(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            file = editor.root / PATH
            file.parent.mkdir(parents=True)
            for text in (CODE, CODE.rstrip("\n"), CODE.replace("\n", "\r\n")):
                file.write_bytes(text.encode())
                written = await unity.apply_patch(PATH, PATCH, sha256(text))
                after = file.read_bytes().decode()
                end = "\r\n" if "\r" in text else "\n"
                expected = text.replace("speed = 4f;", f"speed = 6f;{end}    private int lives = 3; // ж 🎮")
                assert after == expected
                assert written.sha256 == sha256(after)
            with pytest.raises(PatchError, match="does not belong"):
                await unity.apply_patch(PATH, PATCH)
            with pytest.raises(UnityRefusedError, match="not the file that the patch is for"):
                await unity.apply_patch(PATH, PATCH, "0" * 64)
            with pytest.raises(UnityRefusedError, match="there is no script"):
                await unity.apply_patch("Assets/Scripts/None.cs", PATCH)

    asyncio.run(scenario())


def test_a_patch_at_the_end_of_a_file_without_a_last_newline(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            file = editor.root / PATH
            file.parent.mkdir(parents=True)
            for last in ("c", "c // 🎮 🎮"):  # columns are those of C#, in UTF-16
                file.write_text(f"a\nb\n{last}")
                await unity.apply_patch(PATH, f"@@ @@\n b\n-{last}\n+d\n+e\n")
                assert file.read_text() == "a\nb\nd\ne"

    asyncio.run(scenario())


def test_a_script_that_somebody_changes_meanwhile_is_not_patched(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            file = editor.root / PATH
            file.parent.mkdir(parents=True)
            file.write_text(CODE)
            read = editor.manage_script

            async def changed_after_read(p: dict[str, object]) -> dict[str, object]:
                answer = await read(p)
                if p["action"] == "read":
                    file.write_text("// by hand\n" + CODE)
                return answer

            editor.manage_script = changed_after_read  # type: ignore[method-assign]
            with pytest.raises(UnityRefusedError) as refused:
                await unity.apply_patch(PATH, PATCH)
            assert refused.value.code == "stale_file"
            assert file.read_text() == "// by hand\n" + CODE

    asyncio.run(scenario())


def test_two_projects_at_once_never_mix(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            editing(unity_mcp, tmp_path, "One") as one,
            editing(unity_mcp, tmp_path, "Two") as two,
            bridging(unity_mcp, one.instance, tmp_path / "frames") as first,
            bridging(unity_mcp, two.instance, tmp_path / "frames") as second,
        ):
            names = [f"Assets/Scripts/S{number}.cs" for number in range(50)]
            calls = [unity.write_script(name, f"// {unity.instance}\n") for name in names for unity in (first, second)]
            written = await asyncio.gather(*calls)
            assert {one.change for one in written} == {"created"}
            for editor in (one, two):
                texts = [(editor.root / name).read_text() for name in names]
                assert texts == [f"// {editor.instance}\n"] * len(names)

    asyncio.run(scenario())


def test_an_editor_that_is_lost_before_it_acts_is_asked_once_more(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            with pytest.raises(UnityOutcomeUnknownError, match="disconnected"):
                await unity.write_script("Assets/Scripts/DropIt.cs", CODE)
            assert len(_creates(editor)) == 2
            assert not (editor.root / "Assets/Scripts/DropIt.cs").exists()

    asyncio.run(scenario())


def test_what_was_done_before_the_answer_was_lost_counts_as_done(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            file = editor.root / "Assets/Scripts/ReloadIt.cs"
            assert (await unity.write_script("Assets/Scripts/ReloadIt.cs", CODE)).change == "created"
            # An update is not looked up by the server itself.
            written = await unity.write_script("Assets/Scripts/ReloadIt.cs", CODE + "// two\n")
            assert (written.change, file.read_text()) == ("updated", CODE + "// two\n")
            updates = [p for name, p in editor.commands if name == "batch_execute"]
            assert len(updates) == 1

    asyncio.run(scenario())


def test_without_an_editor_nothing_is_done_and_after_five_times_nobody_is_asked(
    unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with bridging(unity_mcp, "Nobody@0123456789abcdef", tmp_path, editor_wait_s=0.3) as unity:
            for _ in range(5):
                with pytest.raises(UnityUnavailableError, match="no Unity editor has the project"):
                    await unity.write_script(PATH, CODE)
            with pytest.raises(CircuitOpenError, match="tried again in"):
                await unity.write_script(PATH, CODE)
            assert (await unity.health())["breaker"] == "open"

    asyncio.run(scenario())


def test_the_breaker_takes_no_offence_at_an_editor_that_refuses_or_is_busy(
    unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path, failures=1) as (editor, unity):
            with pytest.raises(UnityRefusedError, match="validation_failed"):
                await unity.write_script("Assets/Scripts/ErrIt.cs", CODE)
            with pytest.raises(UnityRefusedError, match="simulated handler exception"):
                await unity.write_script("Assets/Scripts/RaiseIt.cs", CODE)
            with pytest.raises(UnityRefusedError, match="nothing like that"):
                await unity.preview("Missing nothing like that", 64, 64)
            editor.compiling = True
            with pytest.raises(UnityBusyError, match="compiling"):  # which the server says after 30 s
                await unity.ingest_asset(PATH)
            assert (await unity.health())["breaker"] == "closed"

    asyncio.run(scenario())


def test_a_server_that_is_away_or_killed_amid_a_call_opens_the_breaker(
    unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path, failures=2) as (editor, unity):
            slow = asyncio.create_task(unity.write_script("Assets/Scripts/Slow20.cs", CODE))
            await until(lambda: _creates(editor))
            await asyncio.to_thread(unity_mcp.kill)
            with pytest.raises(UnityOutcomeUnknownError, match="cannot be seen"):
                await slow
            with pytest.raises(CircuitOpenError):
                await unity.write_script(PATH, CODE)

    asyncio.run(scenario())


def test_a_slow_editor_is_waited_for(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (_, unity):
            assert (await unity.write_script("Assets/Scripts/Slow2.cs", CODE)).change == "created"

    asyncio.run(scenario())


def test_an_editor_that_does_not_answer_in_time_may_have_done_it(
    unity_mcp: UnityMcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "_ANSWERS_BY_S", 1.0)

    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path) as (editor, unity):
            with pytest.raises(UnityOutcomeUnknownError, match="no answer within 1 s"):
                await unity.write_script("Assets/Scripts/Slow4.cs", CODE)
            # The time-out here cancels nothing there.
            await until((editor.root / "Assets/Scripts/Slow4.cs").exists)
            assert len(_creates(editor)) == 1

    asyncio.run(scenario())


def test_a_build_is_followed_until_it_is_over_even_where_it_holds_the_editor_up(
    unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    async def scenario(blocks: bool, result: str, state: str) -> list[Build]:
        seen: list[Build] = []
        over = asyncio.Event()

        async def on_build(build: Build) -> None:
            seen.append(build)
            if build.over:
                over.set()

        async with (
            editing(unity_mcp, tmp_path, f"B{result}", build_s=1.5, build_blocks=blocks, build_result=result) as editor,
            bridging(unity_mcp, editor.instance, tmp_path, build_poll_s=0.1) as unity,
        ):
            begun = await unity.start_build("webgl", False, on_build)
            async with asyncio.timeout(20):
                await over.wait()
            assert (seen[-1].state, seen[-1].job_id, seen[-1].target) == (state, begun.job_id, "webgl")
            assert (await unity.build_status(begun.job_id)).state == state
            with pytest.raises(UnityRefusedError):
                await unity.build_status("no-such-job")
        return seen

    assert {one.state for one in asyncio.run(scenario(False, "succeeded", "completed"))[:-1]} == {"building"}
    assert asyncio.run(scenario(True, "succeeded", "completed"))[-1].error == ""
    assert "failed" in asyncio.run(scenario(False, "failed", "failed"))[-1].error


def test_a_build_is_followed_on_when_it_cannot_be_told_of_for_a_time(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        told: list[Build] = []
        over = asyncio.Event()

        async def on_build(build: Build) -> None:
            told.append(build)
            if not build.over:
                raise PublishError("no room")
            over.set()

        async with connected(unity_mcp, tmp_path, editor={"build_s": 0.5}, build_poll_s=0.1) as (_, unity):
            await unity.start_build("webgl", False, on_build)
            await asyncio.wait_for(over.wait(), 20)
            assert [one.state for one in told[-2:]] == ["building", "completed"]

    asyncio.run(scenario())


def test_a_build_that_does_not_end_times_out(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        ends: asyncio.Queue[Build] = asyncio.Queue()

        async def on_build(build: Build) -> None:
            if build.over:
                ends.put_nowait(build)

        endless = {"build_s": 600}
        async with connected(unity_mcp, tmp_path, editor=endless, build_poll_s=0.1, build_timeout_s=0.5) as (_, unity):
            await unity.start_build("webgl", True, on_build)
            assert (await asyncio.wait_for(ends.get(), 20)).state == "timeout"

    asyncio.run(scenario())


def test_a_preview_is_taken_anew_only_when_the_project_has_changed(
    unity_mcp: UnityMcpServer, valkey: ValkeyServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        client = redis.asyncio.Redis(port=valkey.port)
        async with (
            client,
            editing(unity_mcp, tmp_path) as editor,
            bridging(unity_mcp, editor.instance, tmp_path / "frames", redis=client) as one,
            bridging(unity_mcp, editor.instance, tmp_path / "frames", redis=client) as other,
        ):
            first = await one.preview(None, 64, 36)
            second = await other.preview(None, 64, 36)
            assert (first.cached, second.cached) == (False, True)
            assert first.frame_ref == second.frame_ref
            assert not (await other.preview("Side", 64, 36)).cached
            await other.write_script(PATH, CODE)
            assert not (await one.preview(None, 64, 36)).cached
            assert _screenshots(editor) == 3

    asyncio.run(scenario())


def _creates(editor: Editor) -> list[object]:
    return [params for name, params in editor.commands if name == "manage_script" and params["action"] == "create"]


def _screenshots(editor: Editor) -> int:
    return sum(name == "manage_camera" for name, _ in editor.commands)


def test_a_picture_of_the_largest_size_comes_through(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(unity_mcp, tmp_path, editor={"noise": True}) as (_, unity):
            preview = await unity.preview(None, 2048, 1152)
            assert (tmp_path / "frames" / preview.frame_ref).stat().st_size > 2048 * 1152 * 3

    asyncio.run(scenario())


def test_a_token_is_in_no_error_and_no_representation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with UnityServer("http://127.0.0.1:1", SecretStr("hunter2-token")) as server:
            with pytest.raises(UnityUnavailableError) as raised:
                await server.call("A@1", "read_console", {})
            assert "hunter2" not in repr(raised.value) + repr(server) + repr(vars(server))

    asyncio.run(scenario())


def test_an_address_that_is_no_mcp_server_is_said_to_be_wrong(unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with UnityServer(unity_mcp.url.replace("/mcp", "/other")) as server:
            with pytest.raises(UnityRefusedError, match="check UNITY_MCP_URL"):
                await server.call("A@1", "read_console", {})

    asyncio.run(scenario())
