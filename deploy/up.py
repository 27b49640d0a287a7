"""`slate up` and `slate demo`: servers, schema, workers and traffic on one machine, until Ctrl-C."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, cast
from urllib.parse import urlsplit

from rich.console import Console

from connectors.settings import Settings
from deploy.alert_receiver import AlertReceiver
from deploy.embedded import HOST, Server, free_port, port_is_free
from deploy.live import LiveView, PlainView, View
from deploy.local import LocalStack
from deploy.migrate import migrate_all
from deploy.processes import environment_of
from deploy.sampler import Sampler
from deploy.standins import EditorStandIn, studio
from deploy.supervisor import Interrupted, Interrupts, Program, Supervisor
from deploy.unity_mcp import install
from realtime.terminal import token_of

WORKERS = {"ingest": "flows.ingest", "rollups": "flows.rollups"}
"""Dataflows that run beside the servers, by name."""
_TICK_S = 0.25
_SAMPLE_INVALID = _SAMPLE_DUPLICATES = 0.01
"""Shares of sample traffic, so that dead letters and duplicates can be seen."""
_SAMPLE_OUTAGE = "apply_patch"
_SAMPLE_OUTAGE_AFTER_S = 20.0
"""A function of which every call fails for a minute, so that an alert can be seen."""
_LOCAL_USER = "00000000-0000-4000-8000-000000000000"
"""Whose token the page gets."""
_WEBHOOK_URL, _WEBHOOK_SECRET = "SLATE_ALERT_WEBHOOK_URL", "SLATE_ALERT_WEBHOOK_SECRET"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The options of `slate up`."""

    traffic: bool = True
    rate: float = 200.0
    """Messages a second of sample traffic."""
    trace: Path | None = None
    """Replay this trace instead of simulated sessions."""
    seconds: float | None = None
    """Stop after so long; None is never."""
    demo_sessions: int = 0
    """So many sessions in stand-in editors are the traffic, through the real Unity MCP server."""


def up(wishes: Wishes) -> None:
    """Run the stack in the foreground until SIGINT, SIGTERM, SIGHUP or the time is over.

    Raises:
        SlateError: something did not start; what had started is stopped.
    """
    output = _Output(sys.stdout)
    console = Console(file=cast(IO[str], output), highlight=False)
    stack = LocalStack(Settings.load(local=False))
    with Interrupts() as interrupts, stack.locked():
        supervisor = Supervisor()
        try:
            with ExitStack() as opened:
                servers = _start_servers(stack, supervisor, console)
                if wishes.demo_sessions:
                    install(say=lambda text: _say(console, text))
                    for server in studio(stack.directory / "demo", stack.log):
                        with _step(console, f"Starting {server.name} {server.version} on 127.0.0.1:{server.port}"):
                            supervisor.start(server)
                        servers.append(server)
                settings = stack.settings(servers)
                ports = _metrics_ports(settings)
                opened.enter_context(stack.announced(servers, next(iter(ports.values()))))
                for text in migrate_all(settings):
                    _say(console, text)
                alerts = opened.enter_context(AlertReceiver())
                told = _tell_alerts_to(alerts, settings)
                _start_workers(stack, supervisor, settings, ports, told, console)
                if wishes.demo_sessions:
                    _start_sessions(stack, supervisor, settings, wishes, servers, console)
                elif wishes.traffic:
                    _start_traffic(stack, supervisor, settings, wishes, console)
                _start_page(stack, supervisor, settings, console)
                _say(
                    console,
                    "Other terminals find this stack from here: try `slate doctor`, `slate alerts list`, "
                    "`slate dead-letters list`",
                )
                sampler = opened.enter_context(Sampler(settings, [ports["ingest"]]))
                view = opened.enter_context(_view(console, stack))
                deadline = monotonic() + wishes.seconds if wishes.seconds is not None else float("inf")
                while monotonic() < deadline and not output.lost:
                    for event in [*supervisor.step(), *alerts.take()]:
                        view.event(event)
                    with interrupts.deferred():
                        view.update(supervisor.parts, sampler.latest)
                        if interrupts.wait(_TICK_S):
                            break
        except Interrupted:
            pass
        finally:
            _stop(supervisor, console)


def _start_servers(stack: LocalStack, supervisor: Supervisor, console: Console) -> list[Server]:
    servers = stack.servers()
    for server in servers:
        with _step(console, f"Starting {server.name} {server.version} on 127.0.0.1:{server.port}"):
            supervisor.start(server)
    for name, address in _external(stack.named):
        _say(console, f"Using {name} on {address}")
    return servers


def _start_sessions(
    stack: LocalStack,
    supervisor: Supervisor,
    settings: Settings,
    wishes: Wishes,
    servers: Sequence[Server],
    console: Console,
) -> None:
    editors = next(one for one in servers if isinstance(one, EditorStandIn))
    projects = [word for instance in editors.instances for word in ("--project", instance)]
    command = [sys.executable, "-m", "realtime.demo", "--sessions", str(wishes.demo_sessions), *projects]
    port = free_port()
    environment = os.environ | environment_of(settings.model_copy(update={"metrics_port": port}))
    log = stack.log("sessions")
    supervisor.start(Program("sessions", command, environment=environment, log=log, port=port))
    _say(console, f"Started {wishes.demo_sessions} sessions; scripts appear in {editors.directory}")
    _say(console, "Hold one yourself from another terminal: `slate session`")


def _metrics_ports(settings: Settings) -> dict[str, int]:
    """Choose each worker's metrics port: the set one and those after it, others where they are taken."""
    ports: dict[str, int] = {}
    for number, name in enumerate(WORKERS):
        wanted = settings.metrics_port + number
        ports[name] = wanted if settings.metrics_port and port_is_free(wanted) else free_port()
    return ports


def _start_workers(
    stack: LocalStack,
    supervisor: Supervisor,
    settings: Settings,
    ports: dict[str, int],
    told: dict[str, str],
    console: Console,
) -> None:
    for name, module in WORKERS.items():
        environment = os.environ | environment_of(settings.model_copy(update={"metrics_port": ports[name]})) | told
        log = stack.log(name)
        command = [sys.executable, "-m", "bytewax.run", module]
        supervisor.start(Program(name, command, environment=environment, log=log, port=ports[name]))
        _say(console, f"Started worker {name}: http://127.0.0.1:{ports[name]}/metrics, log {log}")


def _start_page(stack: LocalStack, supervisor: Supervisor, settings: Settings, console: Console) -> None:
    """The HTTP service, and the address of its page with a token in the fragment, which no browser sends anywhere."""
    port = settings.api_port if settings.api_port and port_is_free(settings.api_port) else free_port()
    here = settings.model_copy(update={"api_port": port, "api_host": HOST, "metrics_port": 0})
    environment = os.environ | environment_of(here)
    log = stack.log("api")
    supervisor.start(
        Program("api", [sys.executable, "-m", "realtime.api"], environment=environment, log=log, port=port)
    )
    token = ""
    if settings.jwt_secret is not None:
        permissions = ("spark:read", "spark:generate", "spark:admin")
        token = "#token=" + token_of(settings, settings.jwt_secret, _LOCAL_USER, permissions)
    _say(console, f"Started the live page: http://{HOST}:{port}/{token}")


def _tell_alerts_to(receiver: AlertReceiver, settings: Settings) -> dict[str, str]:
    """The environment by which workers tell our receiver of alerts, unless the user has one."""
    if settings.secret(_WEBHOOK_URL) is not None:
        return {}
    return {_WEBHOOK_URL: receiver.url, _WEBHOOK_SECRET: receiver.secret}


def _start_traffic(
    stack: LocalStack, supervisor: Supervisor, settings: Settings, wishes: Wishes, console: Console
) -> None:
    command = [sys.executable, "-m", "deploy.cli", "simulate", *_simulate_options(wishes)]
    environment = os.environ | environment_of(settings)
    log = stack.log("traffic")
    supervisor.start(Program("traffic", command, environment=environment, log=log, endless=False))
    what = f"replay of {wishes.trace}" if wishes.trace else f"{wishes.rate:g} simulated messages a second"
    _say(console, f"Started traffic: {what}")
    if wishes.trace is None:
        _say(console, f"In {_SAMPLE_OUTAGE_AFTER_S:.0f} s {_SAMPLE_OUTAGE} fails for a minute, to show an alert")


def _simulate_options(wishes: Wishes) -> list[str]:
    if wishes.trace is not None:
        return ["--trace", str(wishes.trace.absolute()), "--shift-to-now"]
    return [
        f"--rate={wishes.rate}",
        f"--invalid={_SAMPLE_INVALID}",
        f"--duplicates={_SAMPLE_DUPLICATES}",
        f"--outage={_SAMPLE_OUTAGE}",
        f"--outage-after={_SAMPLE_OUTAGE_AFTER_S}",
    ]


def _view(console: Console, stack: LocalStack) -> View:
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, _external(stack.named))
    return PlainView(lambda text: _say(console, text))


def _external(named: Settings) -> Sequence[tuple[str, str]]:
    """Servers that the user has named, and their addresses without credentials."""
    found = []
    if named.db_host is not None:
        found.append(("PostgreSQL", f"{named.db_host}:{named.db_port}"))
    if named.nats_url is not None:
        urls = [urlsplit(one) for one in named.nats_servers()]
        found.append(("NATS", ",".join(f"{one.hostname}:{one.port or 4222}" for one in urls)))
    if named.redis_host is not None:
        found.append(("Redis", f"{named.redis_host}:{named.redis_port}"))
    return found


def _stop(supervisor: Supervisor, console: Console) -> None:
    """Stop all in order; a second Ctrl-C kills what is left."""
    try:
        for part in supervisor.to_stop():
            with _step(console, f"Stopping {part.name}"):
                part.stop()
    except Interrupted:
        _say(console, "Killing what still runs")
    finally:
        supervisor.kill()


def _say(console: Console, text: str, end: str = "\n") -> None:
    console.print(text, end=end, markup=False, soft_wrap=True)
    console.file.flush()


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    began = monotonic()
    _say(console, f"{text} ... ", end="")
    try:
        yield
    except BaseException:
        _say(console, "failed")
        raise
    _say(console, f"ok ({monotonic() - began:.1f} s)")


class _Output:
    """Standard output that may go away: a closed terminal or pipe must not keep us from stopping in order."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.lost = False

    def write(self, text: str) -> int:
        if not self.lost:
            try:
                return self._file.write(text)
            except OSError:
                self._lose()
        return len(text)

    def flush(self) -> None:
        if not self.lost:
            try:
                self._file.flush()
            except OSError:
                self._lose()

    def _lose(self) -> None:
        self.lost = True
        # the interpreter flushes standard output when it ends, and would complain
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._file.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)
