"""The HTTP service: who sees what, how much is too much, what every answer carries, and live updates."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis

from connectors.settings import Settings
from deploy.servers import PostgresServer, ValkeyServer
from tests.support.service import ADMIN, ALL, OTHER, READ, bearer, events, serving
from tests.support.sessions import USER
from tests.support.stack import connect

READS = (
    "me",
    "figures",
    "sessions",
    "calls",
    "scripts",
    "previews",
    "builds",
    "usage",
    "errors",
    "alerts",
    "alerts/history",
)
ADMINS = ("minutes", "windows", "dead-letters", "dead-letters/counts")
Scenario = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]


@pytest.fixture
def clean(settings: Settings, valkey: ValkeyServer) -> Settings:
    """Settings for empty servers."""
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return settings


def served(settings: Settings, scenario: Scenario, **more: Any) -> None:
    async def run() -> None:
        async with serving(settings, **more) as client:
            await scenario(client)

    asyncio.run(run())


async def sooner_or_later(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():  # noqa: ASYNC110 - of the service
            await asyncio.sleep(0.1)


def fill(settings: Settings) -> None:
    """A session of each of two users, with one of everything."""
    with connect(settings) as connection:
        for number, user in enumerate((USER, OTHER), 1):
            sid = f"sess_{number}"
            for statement in (
                "INSERT INTO spark_sessions (id, session_id, user_id, model, mode, started_at)"
                " VALUES (gen_random_uuid(), %(sid)s, %(user)s, 'gpt-realtime-2.1', 'hybrid', now())",
                "INSERT INTO spark_function_calls"
                " (session_id, call_id, name, ts, duration_ms, status, user_id, updated_at)"
                " VALUES (%(sid)s, 'c', 'runBuild', now(), 5, 'success', %(user)s, now())",
                "INSERT INTO spark_generated_scripts (session_id, script_name, script_content, prompt, created_at)"
                " VALUES (%(sid)s, 'S', 'class S {}', 'p', now())",
                "INSERT INTO spark_previews (session_id, engine, ts, status, frame_ref)"
                " VALUES (%(sid)s, 'unity', now(), 'ready', 'f')",
                "INSERT INTO spark_build_jobs (id, session_id, build_target, status, status_at, created_at, updated_at)"
                " VALUES (%(sid)s, %(sid)s, 'webgl', 'building', now(), now(), now())",
                "INSERT INTO spark_usage_daily"
                " VALUES ((now() AT TIME ZONE 'UTC')::date, %(sid)s, 'm', %(number)s, 0, 0.000001)",
            ):
                connection.execute(statement.encode(), {"sid": sid, "user": user, "number": number})


def test_without_a_good_token_there_is_nothing(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        bad = [
            {},
            {"Authorization": "Bearer x.y.z"},
            {"Authorization": "Basic eDp5"},
            bearer(exp=1),
            bearer(aud="other"),
        ]
        for headers in bad:
            for path in (*READS, *ADMINS, "sessions/sess_1", "figures/stream", "scripts/1"):
                answer = await client.get(f"/v1/{path}", headers=headers)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert set(answer.json()) == {"error"}
            if headers:
                break
        answer = await client.get("/v1/figures", headers=bearer(permissions=("spark:generate",)))
        assert (answer.status_code, "spark:read" in answer.json()["error"]) == (403, True)
        for path in ADMINS:
            assert (await client.get(f"/v1/{path}", headers=bearer())).status_code == 403

    served(clean, scenario)


def test_guessing_tokens_is_soon_refused(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answers = [await client.get("/v1/figures", headers={"Authorization": "Bearer a.b.c"}) for _ in range(61)]
        assert {one.status_code for one in answers[:60]} == {401}
        assert answers[60].status_code == 429
        assert (await client.get("/v1/figures", headers=bearer())).status_code == 200

    served(clean, scenario)


def test_users_see_their_own_and_admins_all(clean: Settings) -> None:
    fill(clean)

    async def scenario(client: httpx.AsyncClient) -> None:
        mine, admins = bearer(), bearer(OTHER, ADMIN)
        for path in ("sessions", "calls", "scripts", "previews", "builds"):
            items = (await client.get(f"/v1/{path}", headers=mine)).json()["items"]
            assert {one["sessionId"] for one in items} == {"sess_1"}, path
            assert len((await client.get(f"/v1/{path}", headers=admins)).json()["items"]) == 2
            of_other = await client.get(f"/v1/{path}?session=sess_2", headers=mine)
            assert not [one for one in of_other.json()["items"] if one["sessionId"] == "sess_2"]
        assert (await client.get("/v1/figures", headers=mine)).json()["tokensPrompt"] == 1
        assert (await client.get("/v1/figures", headers=admins)).json()["tokensPrompt"] == 3
        for path in ("sessions/sess_2", "sessions/sess_2/timeline", "sessions/sess_2/stream", "sessions/none"):
            answer = await client.get(f"/v1/{path}", headers=mine)
            assert answer.status_code == 404, path
        scripts = (await client.get("/v1/scripts", headers=admins)).json()["items"]
        other = next(one["id"] for one in scripts if one["sessionId"] == "sess_2")
        assert (await client.get(f"/v1/scripts/{other}", headers=mine)).status_code == 404
        assert (await client.get(f"/v1/scripts/{other}", headers=admins)).json()["scriptContent"] == "class S {}"
        timeline = (await client.get("/v1/sessions/sess_1/timeline", headers=mine)).json()["items"]
        assert {one["kind"] for one in timeline} == {"call", "script", "preview", "build"}
        me = (await client.get("/v1/me", headers=mine)).json()
        assert me == {"userId": USER, "permissions": sorted(ALL), "canBegin": False}

    served(clean, scenario)


def test_money_keeps_its_digits(clean: Settings) -> None:
    fill(clean)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert '"cost":0.000001' in (await client.get("/v1/figures", headers=bearer())).text

    served(clean, scenario)


def test_too_much_is_refused_until_the_time_that_is_told(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answers = [await client.get("/v1/me", headers=bearer()) for _ in range(6)]
        assert [one.status_code for one in answers] == [200] * 5 + [429]
        assert 1 <= int(answers[5].headers["retry-after"]) <= 61
        assert (await client.get("/v1/me", headers=bearer(OTHER))).status_code == 200

    served(clean, scenario, api_limit=5)


@pytest.mark.parametrize(
    "path",
    [
        "sessions?limit=0",
        "sessions?limit=501",
        "sessions?cursor=%00",
        "sessions?cursor=abc",
        "calls?status=maybe",
        "usage?since=yesterday",
        "usage?by=colour",
        "usage?since=2026-01-02&until=2026-01-01",
        "sessions/%00",
        "scripts/0",
        "scripts/99999999999999999999",
    ],
)
def test_what_makes_no_sense_is_said_and_never_a_fault_of_the_server(clean: Settings, path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/v1/{path}", headers=bearer())
        assert answer.status_code in (404, 422), answer.text

    served(clean, scenario)


def test_every_answer_carries_what_keeps_browsers_safe(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in ("/", "/static/app.js", "/health", "/v1/me", "/nothing", "/openapi.json"):
            headers = (await client.get(path)).headers
            assert "script-src 'self'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff"
        foreign = {"Origin": "https://evil.example", **bearer()}
        assert "access-control-allow-origin" not in (await client.get("/v1/me", headers=foreign)).headers
        allowed = {"Origin": "https://app.example", **bearer()}
        answer = await client.get("/v1/me", headers=allowed)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"

    served(clean, scenario, api_origins="https://app.example")


def test_browsers_find_an_icon_where_nothing_names_one(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/favicon.ico")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")

    served(clean, scenario)


def test_a_body_has_a_limit_however_it_is_sent(clean: Settings) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 65536

    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/sessions", headers=bearer(), content=b"x" * (1 << 20))
        assert answer.status_code == 413
        try:
            answer = await client.post("/v1/sessions", headers=bearer(), content=endless())
        except httpx.HTTPError:
            return
        assert answer.status_code in (400, 413, 422)

    served(clean, scenario)


def test_health_says_which_server_is_away(clean: Settings, postgres: PostgresServer, valkey: ValkeyServer) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        health = (await client.get("/health")).json()
        assert health == {
            "primary": True,
            "replica": None,
            "replicaLagSeconds": None,
            "nats": True,
            "redis": True,
            "sessions": False,
        }
        valkey.kill()
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["redis"]) == (200, False)
        assert (await client.get("/v1/figures", headers=bearer())).status_code == 200
        postgres.kill()

        async def away() -> bool:
            answer = await client.get("/health")
            return (answer.status_code, answer.json()["primary"]) == (503, False)

        await sooner_or_later(away)
        answer = await client.get("/v1/errors", headers=bearer())
        assert (answer.status_code, "error" in answer.json()) == (503, True)

    served(clean, scenario)


def test_figures_are_told_again_when_they_change(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/v1/figures/stream", headers=bearer(permissions=ADMIN)) as answer:
            stream = events(answer)
            async with asyncio.timeout(10):
                name, data = await anext(stream)
                assert (name, json.loads(data)["figures"]["activeSessions"]) == ("figures", 0)
                fill(clean)
                while json.loads(data)["figures"]["activeSessions"] != 2:
                    _, data = await anext(stream)

    served(clean, scenario)


def test_a_session_is_told_of_again_when_something_happens_in_it(clean: Settings) -> None:
    fill(clean)

    async def scenario(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/v1/sessions/sess_1/stream", headers=bearer()) as answer:
            stream = events(answer)
            async with asyncio.timeout(10):
                _, data = await anext(stream)
                assert json.loads(data)["errors"] == 0
                with connect(clean) as connection:
                    connection.execute("UPDATE spark_function_calls SET status = 'failed' WHERE session_id = 'sess_1'")
                _, data = await anext(stream)
                assert json.loads(data)["errors"] == 1

    served(clean, scenario)


def test_a_user_has_a_few_streams_at_a_time_and_gets_their_places_back(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def open_one() -> httpx.Response:
            request = client.build_request("GET", "/v1/figures/stream", headers=bearer(permissions=READ))
            return await client.send(request, stream=True)

        opened = [await open_one() for _ in range(8)]
        streams = [events(one) for one in opened]
        for stream in streams:
            await anext(stream)
        refused = await client.get("/v1/figures/stream", headers=bearer(permissions=READ))
        assert refused.status_code == 429
        for one in opened:
            await one.aclose()

        async def admitted() -> bool:
            again = await open_one()
            await again.aclose()
            return again.status_code == 200

        await sooner_or_later(admitted)

    served(clean, scenario)


def test_without_keys_no_session_can_be_held_and_it_says_which(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/sessions", headers=bearer(), json={})
        assert (answer.status_code, "OPENAI_REALTIME_API_KEY" in answer.json()["error"]) == (503, True)
        refused = await client.post("/v1/sessions", headers=bearer(permissions=READ), json={})
        assert refused.status_code == 403

    served(clean, scenario)


def test_identities_in_the_document_are_those_of_the_code(clean: Settings) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        operations = [one for path in document["paths"].values() for one in path.values()]
        assert all("description" in one for one in operations)
        assert {"Session", "Figures", "Error"} <= {name.partition("_")[0] for name in document["components"]["schemas"]}
        assert UUID(USER)

    served(clean, scenario)
