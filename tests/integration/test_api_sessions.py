"""Sessions over HTTP, as a browser holds them, and the document against the service."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from connectors.settings import Settings
from deploy.servers import ValkeyServer
from deploy.unity_mcp import UnityMcpServer
from tests.standins.brain import Turn, demo_brain
from tests.standins.realtime import FakeRealtime
from tests.support.run import run
from tests.support.service import ADMIN, OTHER, bearer, events, serving
from tests.support.sessions import of_studio, published
from tests.support.unity import editing


def browse(settings: Settings, unity_mcp: UnityMcpServer, tmp_path: Path, openai: FakeRealtime, scenario: Any) -> None:
    async def all_of_it() -> None:
        async with openai, editing(unity_mcp, tmp_path) as editor:
            whole = of_studio(settings, unity_mcp, openai, tmp_path, unity_instance=editor.instance)
            async with serving(whole) as client:
                await scenario(client)

    asyncio.run(all_of_it())


@pytest.fixture(autouse=True)
def _clean(valkey: ValkeyServer) -> None:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()


def test_a_browser_begins_a_session_hears_of_it_and_ends_it(
    settings: Settings, unity_mcp: UnityMcpServer, tmp_path: Path
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/me", headers=bearer())).json()["canBegin"] is True
        begun = await client.post("/v1/sessions", headers=bearer(), json={"mode": "creative"})
        assert begun.status_code == 201, begun.text
        session = begun.json()["sessionId"]
        path = f"/v1/sessions/{session}"
        said = await client.post(f"{path}/inputs", headers=bearer(), json={"text": "Create a Unity player controller"})
        assert said.status_code == 202
        heard: list[dict[str, Any]] = []
        async with client.stream("GET", f"{path}/live", headers=bearer()) as answer, asyncio.timeout(20):
            async for name, data in events(answer):
                assert name == "happening"
                heard.append(json.loads(data))
                if heard[-1]["type"] == "TurnEnded":
                    break
        kinds = [one["type"] for one in heard]
        assert {"CallStarted", "CallEnded", "TextDelta"} <= set(kinds)
        assert heard[kinds.index("CallEnded")]["durationMs"] >= 0
        # Who comes back hears the rest.
        last = {"Last-Event-ID": str(heard[-2]["id"]), **bearer()}
        async with client.stream("GET", f"{path}/live", headers=last) as answer, asyncio.timeout(20):
            _, data = await anext(events(answer))
            assert json.loads(data) == heard[-1]
        for method, url, body in (
            ("POST", f"{path}/inputs", {"text": "Hello"}),
            ("POST", f"{path}/cancel", None),
            ("GET", f"{path}/live", None),
            ("DELETE", path, None),
        ):
            other = await client.request(method, url, headers=bearer(OTHER), json=body)
            assert other.status_code == 404, url
        assert (await client.post(f"{path}/cancel", headers=bearer())).status_code == 202
        assert (await client.delete(path, headers=bearer())).status_code == 204
        assert (await client.delete(path, headers=bearer())).status_code == 404

    browse(settings, unity_mcp, tmp_path, FakeRealtime(brain=demo_brain), scenario)
    found = [one.body.get("type") for one in published(settings)]
    assert (found[0], found[-1]) == ("connected", "disconnected")


def test_what_is_no_session_is_refused_in_words(settings: Settings, unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        bodies: tuple[Any, ...] = ({"mode": "wild"}, {"model": ""}, {"project": "no"}, {"unknown": 1}, [], "x")
        for body in bodies:
            answer = await client.post("/v1/sessions", headers=bearer(), json=body)
            assert answer.status_code == 422, body
        session = (await client.post("/v1/sessions", headers=bearer(), json={})).json()["sessionId"]
        for text in ("", "x" * 32_001):
            answer = await client.post(f"/v1/sessions/{session}/inputs", headers=bearer(), json={"text": text})
            assert answer.status_code == 422
        blank = await client.post(f"/v1/sessions/{session}/inputs", headers=bearer(), json={"text": "  "})
        assert (blank.status_code, "1 to 32000" in blank.json()["error"]) == (409, True)
        project = {"project": "Nobody@0123456789abcdef"}
        assert (await client.post("/v1/sessions", headers=bearer(OTHER), json=project)).status_code == 201

    browse(settings, unity_mcp, tmp_path, FakeRealtime([Turn(text="Yes.")]), scenario)


def test_schemathesis_finds_nothing(settings: Settings, unity_mcp: UnityMcpServer, tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        token = bearer(permissions=ADMIN)["Authorization"]
        command: list[str | Path] = [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{client.base_url}/openapi.json",
            "--header",
            f"Authorization: {token}",
            "--max-examples=8",
            "--phases=examples,coverage,fuzzing",
            "--exclude-path-regex=stream$|live$",  # they do not end
            "--exclude-checks=positive_data_acceptance",  # a schema cannot say which cursors we gave
            "--suppress-health-check=all",
            "--workers=1",  # threads that parse Python at once make CPython 3.11 fail
            "--request-timeout=20",
            "--seed=1",
            "--no-color",
        ]
        result = await asyncio.to_thread(run, command, timeout=110, directory=tmp_path)
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]

    browse(settings, unity_mcp, tmp_path, FakeRealtime(brain=demo_brain), scenario)
