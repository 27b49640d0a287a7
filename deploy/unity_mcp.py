"""The Unity MCP server in an environment of its own, made on first use.

It needs another major version of `mcp` than anything else here may, and installs top-level modules called `core`,
`models` and `utils`; so it never shares an environment. Its packages are pinned by hash in `deploy/unity-mcp.txt`.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import httpx

from connectors.errors import ConfigurationError
from deploy.embedded import HOST, Server, plain_environment
from deploy.processes import spawn

REQUIREMENTS = Path(__file__).with_name("unity-mcp.txt")


def environment_directory() -> Path:
    """Where the environment is: inside ours, so that `make clean` removes it too."""
    return Path(sys.prefix) / "unity-mcp"


def install(directory: Path | None = None, *, say: Callable[[str], None] = lambda text: None) -> Path:
    """Make the environment if it is missing or of other packages; return the server's program.

    Raises:
        ConfigurationError: the packages cannot be installed; the message has the end of pip's output.
    """
    directory = directory or environment_directory()
    program = directory / "bin" / "mcp-for-unity"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = directory / ".installed"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return program
        say("Installing the Unity MCP server into an environment of its own (once, about half a minute)")
        shutil.rmtree(directory, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(directory))
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "--require-hashes", "--requirement", str(REQUIREMENTS))
        stamp.write_text(wanted)
    return program


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if result.returncode:
        raise ConfigurationError(
            f"the Unity MCP server cannot be installed (exit code {result.returncode}):\n"
            f"{(result.stderr or result.stdout)[-2000:]}"
        )


class UnityMcpServer(Server):
    """The server, stateless and answering in JSON: each call names its project, and no session can hold another."""

    name = "Unity MCP"

    def __init__(self, directory: Path, *, port: int = 0, log: Path | None = None, resolve_wait_s: float = 2.0) -> None:
        super().__init__(directory, port=port, log=log)
        self._resolve_wait_s = resolve_wait_s

    @property
    def program(self) -> Path:
        """`mcp-for-unity` of its own environment."""
        program = environment_directory() / "bin" / "mcp-for-unity"
        if not program.exists():
            raise ConfigurationError("the Unity MCP server is not installed: `slate demo` does it on first use")
        return program

    @property
    def url(self) -> str:
        """Where tools are called."""
        return f"http://{HOST}:{self.port}/mcp"

    @property
    def hub_url(self) -> str:
        """Where editors connect."""
        return f"ws://{HOST}:{self.port}/hub/plugin"

    @cached_property
    def version(self) -> str:
        """The pinned one."""
        found = re.search(r"^mcpforunityserver==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
        return found[1] if found else ""

    def environment(self) -> dict[str, str]:
        """`UNITY_MCP_URL`."""
        return {"UNITY_MCP_URL": self.url}

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str | Path]:
        options = ["--transport", "http", "--http-host", HOST, "--http-port", str(self.port)]
        return [self.program, *options]

    def _spawn(self) -> "subprocess.Popen[bytes]":
        environment = plain_environment() | {
            "HOME": str(self.directory),
            "DISABLE_TELEMETRY": "true",
            "FASTMCP_STATELESS_HTTP": "true",
            "FASTMCP_JSON_RESPONSE": "true",
            "UNITY_MCP_SESSION_RESOLVE_MAX_WAIT_S": str(self._resolve_wait_s),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return spawn(
            self._command(),
            log=self.log,
            environment=environment,
            directory=self.directory,
            death_signal=self._death_signal,
        )

    def _answers(self) -> bool:
        try:
            answer = httpx.get(f"http://{HOST}:{self.port}/health", timeout=5)
            return bool(answer.json().get("status") == "healthy")
        except (httpx.HTTPError, ValueError):
            return False
