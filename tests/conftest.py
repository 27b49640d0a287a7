"""Fixtures that all tests share: real servers once per session, a database and a stream for each test.

Tests run in a temporary directory and without the developer's settings: name files of the repository by
`Path(__file__)` or `importlib.resources`, and use `monkeypatch.setenv` for a variable.
"""

import os
import secrets
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from connectors.settings import Settings
from deploy.embedded import Server
from deploy.processes import variables
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from deploy.unity_mcp import UnityMcpServer, install
from tests.support.processes import open_directory
from tests.support.secured import SecuredStack
from tests.support.stack import HastyPostgresServer, Stack

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)
MakeSettings = Callable[..., Settings]
"""`make_settings(migrated=True, **overrides)`: overrides by field name; its own database and stream."""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        others = ("SLACK_WEBHOOK_URL", "PAGERDUTY_INTEGRATION_KEY")
        for name in {*variables().values(), *others, *(one for one in os.environ if one.startswith("SLATE_"))}:
            patch.delenv(name, raising=False)
        patch.chdir(tmp_path_factory.mktemp("empty"))  # no .env and no .slate here
        yield


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command that a test ran in this process set up logging for itself; `capture_logs` would see nothing then."""
    yield
    structlog.reset_defaults()


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C: a shell starts what is in the background (`&`) with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--secured`: TLS everywhere, least privilege, PgBouncer in front, a replica behind (tests/support/secured.py)."""
    parser.addoption("--secured", action="store_true", help="run on servers that are secured as deploy/ has them")


@pytest.fixture(scope="session")
def secured_stack(request: pytest.FixtureRequest) -> Iterator[SecuredStack | None]:
    """The secured servers where they are asked for."""
    if not request.config.getoption("--secured"):
        yield None
        return
    with open_directory() as directory:
        servers = SecuredStack(directory)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, secured_stack: SecuredStack | None) -> Iterator[PostgresServer]:
    """PostgreSQL for the session. Tests may stop, pause and kill it: the next test finds it running."""
    if secured_stack is not None:
        yield secured_stack.postgres
        return
    server = HastyPostgresServer(tmp_path_factory.mktemp("postgres"), password=secrets.token_hex(16))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory, secured_stack: SecuredStack | None) -> Iterator[Server]:
    """NATS with JetStream for the session, as `postgres`."""
    if secured_stack is not None:
        yield secured_stack.nats_server
        return
    server = NatsServer(tmp_path_factory.mktemp("nats"), user="slate", password=secrets.token_hex(16))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory, secured_stack: SecuredStack | None) -> Iterator[Server]:
    """Valkey for the session, as `postgres`."""
    if secured_stack is not None:
        yield secured_stack.valkey
        return
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def unity_mcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnityMcpServer]:
    """The real Unity MCP server, in an environment of its own that is made on first use."""
    install()
    server = UnityMcpServer(tmp_path_factory.mktemp("unity-mcp"), resolve_wait_s=2.0)
    yield server
    server.stop()


@pytest.fixture
def unity_mcp(unity_mcp_server: UnityMcpServer) -> UnityMcpServer:
    """It runs, whatever an earlier test did to it."""
    unity_mcp_server.start()
    return unity_mcp_server


@pytest.fixture(scope="session")
def stack(
    postgres: PostgresServer, nats_server: NatsServer, valkey: ValkeyServer, secured_stack: SecuredStack | None
) -> Stack | SecuredStack:
    """The three servers together."""
    return secured_stack or Stack(postgres, nats_server, valkey)


@pytest.fixture
def make_settings(stack: Stack) -> Iterator[MakeSettings]:
    """Make settings with overrides, each with a new database and stream, deleted when the test ends."""
    with ExitStack() as cleanup:

        def make(*, migrated: bool = True, **overrides: Any) -> Settings:
            return cleanup.enter_context(stack.provide(migrated=migrated, **overrides))

        yield make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """Settings for a migrated database and a stream, both new and empty."""
    return make_settings()


@pytest.fixture
def empty_settings(make_settings: MakeSettings) -> Settings:
    """Settings for a new database without any migration, and for a stream that does not exist."""
    return make_settings(migrated=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI nothing may be missing, so a skipped test is a failed one."""
    return _not_skipped_under_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Likewise for a module that skips itself."""
    return _not_skipped_under_ci((yield))


def _not_skipped_under_ci(report: R) -> R:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
