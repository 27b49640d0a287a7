"""The HTTP service in this process, with clients of its users."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import uvicorn
from pydantic import SecretStr

from connectors.settings import Settings
from deploy.embedded import free_port
from realtime.api.app import create_app
from tests.support.sessions import JWT_SECRET, USER

OTHER = "00000000-0000-4000-8000-000000000001"
READ, ALL = ("spark:read",), ("spark:read", "spark:generate")
ADMIN = ("spark:read", "spark:generate", "spark:admin")


def bearer(user: str = USER, permissions: tuple[str, ...] = ALL, **claims: Any) -> dict[str, str]:
    """The header of a user's request."""
    now = int(time.time())
    told = {"sub": user, "iss": "spark", "aud": "spark", "iat": now, "exp": now + 600, **claims}
    token = jwt.encode({**told, "permissions": list(permissions)}, JWT_SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def serving(settings: Settings, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a service that runs with these settings."""
    whole = settings.model_copy(update={"jwt_secret": SecretStr(JWT_SECRET), "api_limit": 0, **more})
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(create_app(whole), host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=1)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                assert not task.done(), task
                await asyncio.sleep(0.02)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await task


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Server-Sent Events: name and data of each."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, line.removeprefix("data: ")
