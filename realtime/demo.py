"""Sessions that say something now and then, for ever: the traffic of `slate demo`."""

import asyncio
import random
import signal
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

import structlog
import typer
from pydantic import SecretStr

from connectors import logs, metrics
from connectors.errors import SlateError
from connectors.settings import Settings
from realtime.backend import Backend
from realtime.modes import MODES
from realtime.session import SparkRealtimeSession
from realtime.terminal import local_authority, token_of

INPUTS: Final = (
    "Create a Unity player controller",
    "Make it faster",
    "Add an enemy patrol",
    "Make a red material",
    "Create a coin prefab",
    "Write a camera follow",
    "Add a double jump",
    "Build it for the web",
    "Write a health bar",
    "Spawn ten asteroids",
)
PAUSE_S: Final = (0.5, 4.0)

_log = structlog.get_logger(__name__)


def demo(
    project: Annotated[list[str], typer.Option(help="Unity project, Name@hash; sessions take turns in them.")],
    sessions: Annotated[int, typer.Option(min=1, max=1000, help="Sessions at a time.")] = 4,
    seed: Annotated[int, typer.Option(help="Of what is said.")] = 0,
) -> None:
    """Hold sessions until SIGTERM or Ctrl-C."""
    settings = Settings.load()
    logs.configure(settings)
    metrics.serve(settings)
    unlimited = {"quota_tokens": 0, "quota_inputs": 0, "quota_sessions": 0}
    asyncio.run(_run(settings.model_copy(update=unlimited), project, sessions, seed))


async def _run(settings: Settings, projects: Sequence[str], sessions: int, seed: int) -> None:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    for one in (signal.SIGINT, signal.SIGTERM):
        if main is not None:
            loop.add_signal_handler(one, main.cancel)
    authenticator, secret = local_authority(settings)
    try:
        async with Backend(settings, authenticator=authenticator) as backend, asyncio.TaskGroup() as group:
            for number in range(sessions):
                chance = random.Random(f"{seed} {number}")  # noqa: S311 - what is said, not a secret
                project = projects[number % len(projects)]
                group.create_task(_sessions(backend, secret, project, chance))
    except asyncio.CancelledError:
        _log.info("demo sessions are over")


async def _sessions(backend: Backend, secret: SecretStr, project: str, chance: random.Random) -> None:
    while True:
        user = str(UUID(int=chance.getrandbits(128), version=4))
        token = token_of(backend.settings, secret, user)
        mode = chance.choice(MODES)
        try:
            async with SparkRealtimeSession(token=token, mode=mode, project=project, backend=backend) as session:
                for _ in range(chance.randint(3, 12)):
                    await (await session.send_user_input(chance.choice(INPUTS)))
                    await asyncio.sleep(chance.uniform(*PAUSE_S))
        except SlateError as error:
            _log.warning("a demo session has ended", error=str(error))
            await asyncio.sleep(2.0)


if __name__ == "__main__":
    typer.run(demo)
