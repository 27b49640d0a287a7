"""Hosts on one machine: network namespaces at a bridge, and servers that listen at the bridge's address."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from connectors.settings import Settings
from deploy.servers import NatsServer, PostgresServer
from tests.support.processes import alive
from tests.support.programs import need_program
from tests.support.worker import Worker

_NAMES = ("a", "b", "c", "d")
_MADE = Path("/run/netns")
_NETWORKS = 512  # of 198.18.0.0/15, which is for tests of networks (RFC 2544) and routed nowhere


class Host:
    """A namespace with an address of its own; it reaches the bridge and, through it, the other hosts."""

    def __init__(self, network: "Network", name: str, number: int) -> None:
        self.name = name
        self.address = network.address_of(number + 2)
        self.namespace = f"slate-{os.getpid()}-{name}"
        self._port = f"s{os.getpid()}{name}"
        self._bridge = network.bridge

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands in front of a command that is to run on it."""
        return (str(need_program("nsenter", "util-linux")), f"--net={_MADE / self.namespace}")

    def make(self) -> None:
        """Make namespace and cable."""
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("link", "set", self._port, "master", self._bridge, "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", device, "up")

    def cut(self) -> None:
        """Lose all that it sends and all that is sent to it, and tell neither side: the cable seems to be in."""
        _ip("link", "set", self._port, "nomaster")

    def join(self) -> None:
        """End a cut."""
        _ip("link", "set", self._port, "master", self._bridge)

    def slow(self, rate: str) -> None:
        """Send it no more than this, such as `2mbit`, and take no more from it."""
        limit = ("root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms")
        _run("tc", "qdisc", "replace", "dev", self._port, *limit)
        _run("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", *limit)

    def settings(self, settings: Settings, **more: Any) -> Settings:
        """Settings of a process on it: metrics at its address."""
        return settings.model_copy(update={"metrics_host": self.address} | more)

    def worker(self, settings: Settings, *arguments: str, flow: str = "flows.ingest", **more: Any) -> Worker:
        """A worker on it; `more` are settings by field name, and `directory`."""
        directory = more.pop("directory", None)
        return Worker(self.settings(settings, **more), *arguments, flow=flow, directory=directory, prefix=self.prefix)


class Network:
    """A bridge and the hosts at it, as a context manager that leaves none of them behind; needs root.

    Its names have the process id in them, so that several test processes have one each.
    """

    def __init__(self) -> None:
        self.bridge = f"s{os.getpid()}br"
        self._number = _free_network()
        self.address = self.address_of(1)
        self.hosts = {name: Host(self, name, number) for number, name in enumerate(_NAMES)}

    def __enter__(self) -> "Network":
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for host in self.hosts.values():
                host.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            _ip("netns", "delete", host.namespace, check=False)
        _ip("link", "delete", self.bridge, check=False)

    def address_of(self, number: int) -> str:
        """An address in it."""
        return f"198.{18 + self._number // 256}.{self._number % 256}.{number}"


class BridgePostgres(PostgresServer):
    """PostgreSQL that hosts reach, too; the rest of the machine does not."""

    def __init__(self, directory: Path, network: Network, *, password: str) -> None:
        super().__init__(directory, password=password)
        self._address = network.address

    def environment(self) -> dict[str, str]:
        """`SLATE_DB_*`."""
        return super().environment() | {"SLATE_DB_HOST": self._address}

    def _initialise(self) -> None:
        super()._initialise()
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {self._address}/24 scram-sha-256\n")

    def _command(self) -> list[str | Path]:
        return [*super()._command(), f"--listen_addresses=127.0.0.1,{self._address}"]


class BridgeNats(NatsServer):
    """NATS that hosts reach; the rest of the machine does not."""

    def __init__(self, directory: Path, network: Network, *, password: str) -> None:
        super().__init__(directory, user="slate", password=password)
        self._address = network.address
        self._secret = password

    def environment(self) -> dict[str, str]:
        """`NATS_URL`."""
        return {"NATS_URL": f"nats://{self._user}:{self._secret}@{self._address}:{self.port}"}

    def _prepare(self) -> None:
        super()._prepare()
        path = self.directory / "nats.conf"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"listen": f"{self._address}:{self.port}"}))

    def _answers(self) -> bool:
        try:
            with (
                socket.create_connection((self._address, self.port), timeout=5) as client,
                client.makefile("rb") as stream,
            ):
                return json.loads(stream.readline().removeprefix(b"INFO ")).get("jetstream") is True
        except (OSError, ValueError):
            return False


@contextmanager
def network() -> Iterator[Network]:
    """A network of hosts; skips the test where there can be none."""
    need_program("ip", "iproute2")
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which only root can make")
    _remove_left_behind()
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Network())
        except PermissionError as error:
            pytest.skip(f"hosts are network namespaces, which cannot be made here: {error}")
        yield made


def _remove_left_behind() -> None:
    """Delete what a test process has left that was killed."""
    for one in _MADE.glob("slate-*-*"):
        with suppress(ValueError):
            pid = int(one.name.split("-")[1])
            if not alive(pid):
                _ip("netns", "delete", one.name, check=False)
                _ip("link", "delete", f"s{pid}br", check=False)


def _free_network() -> int:
    taken = _ip("-br", "addr")
    for turn in range(_NETWORKS):
        number = (os.getpid() + turn) % _NETWORKS
        if f"198.{18 + number // 256}.{number % 256}." not in taken:
            return number
    raise RuntimeError("no network of 198.18.0.0/15 is free")


def _ip(*arguments: str, check: bool = True) -> str:
    return _run("ip", *arguments, check=check)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode and check:
        if "Operation not permitted" in done.stderr:
            raise PermissionError(done.stderr.strip())
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
