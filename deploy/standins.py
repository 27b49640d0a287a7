"""The stand-ins of the demo as programs: a model that answers by a script, and Unity editors with folders for projects.

They are in `tests/standins` of the repository, and only there: an installed package has no demo.
"""

import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import httpx

from connectors.errors import ConfigurationError
from deploy.embedded import HOST, Server, plain_environment
from deploy.processes import spawn
from deploy.unity_mcp import UnityMcpServer

PROJECTS = ("Platformer", "Asteroids")
_REPOSITORY = Path(__file__).parents[1]


class _StandIn(Server):
    """A module of `tests.standins` as a server."""

    @property
    def program(self) -> Path:
        """The interpreter."""
        return Path(sys.executable)

    @cached_property
    def version(self) -> str:
        """It is none of the real thing."""
        return "(stand-in)"

    def environment(self) -> dict[str, str]:
        """See the class."""
        return {}

    def _prepare(self) -> None:
        if not (_REPOSITORY / "tests" / "standins").is_dir():
            raise ConfigurationError("the demo needs the repository: its stand-ins are in tests/standins")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        environment = plain_environment() | {"PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        return spawn(
            self._command(),
            log=self.log,
            environment=environment,
            directory=self.directory,
            death_signal=self._death_signal,
        )


class OpenAiStandIn(_StandIn):
    """Answers as the OpenAI Realtime API does, without a model."""

    name = "OpenAI Realtime"

    def environment(self) -> dict[str, str]:
        """Its address, and a key: it takes any."""
        return {"SLATE_OPENAI_URL": f"ws://{HOST}:{self.port}/v1", "OPENAI_REALTIME_API_KEY": "demo"}

    def _command(self) -> list[str | Path]:
        return [self.program, "-m", "tests.standins.realtime", "--port", str(self.port)]

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=5).close()
        except OSError:
            return False
        return True


class EditorStandIn(_StandIn):
    """Unity editors, one for each project; a project is a folder below `directory`."""

    name = "Unity editors"

    def __init__(
        self, directory: Path, server: UnityMcpServer, projects: list[str], *, log: Path | None = None
    ) -> None:
        super().__init__(directory, port=server.port, log=log)
        self._server = server
        self._projects = projects
        self.instances: list[str] = []
        """The projects as the server calls them, once it has started."""

    def environment(self) -> dict[str, str]:
        """The first project is that of sessions which name none."""
        return {"SLATE_UNITY_INSTANCE": self.instances[0]}

    def _command(self) -> list[str | Path]:
        names = [word for name in self._projects for word in ("--project", name)]
        options = ["--url", self._server.hub_url, "--root", str(self.directory)]
        return [self.program, "-m", "tests.standins.editor", *options, *names]

    def _answers(self) -> bool:
        try:
            listed = httpx.get(f"http://{HOST}:{self.port}/api/instances", timeout=5).json()["instances"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        found = {one["project"]: f"{one['project']}@{one['hash']}" for one in listed}
        self.instances = [found[name] for name in self._projects if name in found]
        return len(self.instances) == len(self._projects)


def studio(directory: Path, log: Callable[[str], Path]) -> list[Server]:
    """A model, the real Unity MCP server and editors of two projects, in the order in which they start.

    Args:
        directory: where they are, the projects among it.
        log: gives the log file of a name.
    """
    unity = UnityMcpServer(directory / "unity-mcp", log=log("unity-mcp"))
    editors = EditorStandIn(directory / "projects", unity, list(PROJECTS), log=log("editors"))
    return [OpenAiStandIn(directory / "openai", log=log("openai")), unity, editors]
