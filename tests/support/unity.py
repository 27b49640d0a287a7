"""Editors and bridges on the real Unity MCP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connectors.breaker import Breaker, BreakerFigures
from connectors.frames import FileFrames
from connectors.unity import UnityServer
from deploy.unity_mcp import UnityMcpServer
from realtime.bridge import UnityBridge
from realtime.preview_cache import PreviewCache
from tests.standins.editor import Editor


@asynccontextmanager
async def editing(server: UnityMcpServer, root: Path, project: str = "Demo", **options: Any) -> AsyncIterator[Editor]:
    """Give an editor that the server knows."""
    editor = Editor(server.hub_url, project, root / project, **options)
    task = asyncio.create_task(editor.run())
    try:
        await asyncio.wait_for(editor.registered.wait(), 20)
        yield editor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def bridging(
    server: UnityMcpServer, instance: str, frames: Path, *, redis: Any = None, failures: int = 5, **options: Any
) -> AsyncIterator[UnityBridge]:
    """Give a bridge with a breaker of its own."""
    async with UnityServer(server.url) as unity:
        breaker = Breaker(redis, f"unity:{instance}", BreakerFigures(failures=failures))
        bridge = UnityBridge(
            unity, instance, breaker=breaker, frames=FileFrames(frames), cache=PreviewCache(redis), **options
        )
        try:
            yield bridge
        finally:
            await bridge.close()


@asynccontextmanager
async def connected(
    server: UnityMcpServer,
    directory: Path,
    *,
    project: str = "Demo",
    editor: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Editor, UnityBridge]]:
    """Give an editor and a bridge to it; frames are in `directory/frames`."""
    async with (
        editing(server, directory, **(editor or {})) as one,
        bridging(server, one.instance, directory / "frames", **options) as bridge,
    ):
        yield one, bridge
