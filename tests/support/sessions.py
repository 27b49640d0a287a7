"""Sessions on real servers, with stand-ins for OpenAI and the editor only."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import nats
from pydantic import SecretStr

from connectors.messages import NatsBatch, NatsSourceMessage
from connectors.settings import Settings
from deploy.unity_mcp import UnityMcpServer
from flows.validate import validate
from realtime.backend import Backend
from realtime.happenings import Happening
from realtime.session import SparkRealtimeSession
from tests.standins.editor import Editor
from tests.standins.realtime import FakeRealtime
from tests.support.unity import editing

USER = "3f2b8c1e-6a4d-4e0f-9b7a-0123456789ab"
JWT_SECRET = "correct horse battery staple, and then some"
OPENAI_KEY = "sk-test-hunter2-0123456789abcdefghij"
MCP_TOKEN = "mcp-hunter2-token"


def token(user: str = USER, permissions: tuple[str, ...] = ("spark:generate",), **more: Any) -> str:
    now = int(time.time())
    claims = {"sub": user, "iss": "spark", "aud": "spark", "iat": now, "exp": now + 600, **more}
    return jwt.encode({**claims, "permissions": list(permissions)}, JWT_SECRET, algorithm="HS256")


@dataclass
class Studio:
    """A backend, an editor and a model."""

    backend: Backend
    editor: Editor
    openai: FakeRealtime
    sessions: list[SparkRealtimeSession] = field(default_factory=list)

    def session(self, user: str = USER, **options: Any) -> SparkRealtimeSession:
        """Make a session of a user."""
        options = {"token": token(user), "backend": self.backend, **options}
        session = SparkRealtimeSession(**options)
        self.sessions.append(session)
        return session


def of_studio(
    settings: Settings, unity_mcp: UnityMcpServer, openai: FakeRealtime, tmp_path: Path, **more: Any
) -> Settings:
    """Settings that point to all of it; limits are off unless given."""
    update = {
        "openai_url": openai.ws_url,
        "openai_key": SecretStr(OPENAI_KEY),
        "unity_mcp_url": unity_mcp.url,
        "unity_mcp_token": SecretStr(MCP_TOKEN),
        "jwt_secret": SecretStr(JWT_SECRET),
        "frames_url": (tmp_path / "frames").as_uri(),
        "spill_dir": tmp_path / "spill",
        "quota_tokens": 0,
        "quota_inputs": 0,
        "quota_sessions": 0,
        **more,
    }
    return settings.model_copy(update=update)


@asynccontextmanager
async def studio(
    settings: Settings, unity_mcp: UnityMcpServer, tmp_path: Path, openai: FakeRealtime, **more: Any
) -> AsyncIterator[Studio]:
    """Give all that a session needs; `more` are settings."""
    async with openai, editing(unity_mcp, tmp_path) as editor:
        whole = of_studio(settings, unity_mcp, openai, tmp_path, **{"unity_instance": editor.instance, **more})
        async with Backend(whole, build_poll_s=0.1) as backend:
            made = Studio(backend, editor, openai)
            try:
                yield made
            finally:
                for session in made.sessions:
                    await session.disconnect()
                await backend.events.flush(10)


async def turn(session: SparkRealtimeSession, text: str = "Create a Unity player controller") -> list[Happening]:
    """Say something and give what happens until the turn is over."""
    ended = await session.send_user_input(text)
    async with asyncio.timeout(60):
        await ended
    return drain(session)


def drain(session: SparkRealtimeSession) -> list[Happening]:
    """What has happened and was not iterated yet."""
    seen = list(session._happenings)
    session._happenings.clear()
    return seen


@dataclass
class Published:
    """What the stream holds."""

    subject: str
    body: dict[str, Any]
    headers: dict[str, str]


def published(settings: Settings) -> list[Published]:
    """Everything in the stream, which ingest would store: none of it is refused."""

    async def read() -> list[Any]:
        client = await nats.connect(settings.nats_servers())
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(settings.stream)).state
            sequences = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            return [await jetstream.get_msg(settings.stream, sequence) for sequence in sequences]
        finally:
            await client.close()

    messages = asyncio.run(read())
    for message in messages:
        _check_contract(settings, message)
    return [Published(_subject(one.subject), json.loads(one.data), dict(one.headers or {})) for one in messages]


def _subject(subject: str) -> str:
    return "spark" + subject.partition("spark")[2]


def _check_contract(settings: Settings, message: Any) -> None:
    one = NatsSourceMessage(_subject(message.subject), bytes(message.data), int(message.seq), time.time_ns())
    outcomes = validate(NatsBatch(settings.stream, 0, one.sequence - 1, one.sequence, [one]))
    assert not outcomes.dead, (message.subject, message.data, outcomes.dead)


def kinds(events: list[Published]) -> list[str]:
    """Subjects without session ids, in the stream's order."""
    return [one.subject.rpartition(".")[0].removeprefix("spark.") for one in events]


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


def of(events: list[Published], subject: str) -> list[dict[str, Any]]:
    return [one.body for one in events if one.subject.startswith(f"spark.{subject}")]


def outputs(openai: FakeRealtime, connection: int = -1) -> dict[str, dict[str, Any]]:
    """What the model was told of its calls."""
    items = [event["item"] for event in openai.received[connection] if event["type"] == "conversation.item.create"]
    return {one["call_id"]: json.loads(one["output"]) for one in items if one["type"] == "function_call_output"}
