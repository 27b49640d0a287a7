"""The stack of one machine: which servers `slate up` brings, where they live, and how others find them.

Everything is below `SLATE_DIR` (`.slate`), which only its owner may enter:

    lock            held by the running `slate up`
    state.json      passwords and ports of our servers, made once
    env             addresses of the servers that run now, read by all other commands
    postgres nats valkey   their data
    log             one file per server and program
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from connectors.errors import ConfigurationError
from connectors.settings import LOCAL_ENV, Settings
from deploy.embedded import Server, free_port, port_is_free
from deploy.processes import variables
from deploy.servers import DATABASE, ROLE, NatsServer, PostgresServer, ValkeyServer

_LARGEST_LOG = 10 << 20


class LocalStack:
    """The servers for which the user has named no address, and the settings that point to all.

    Args:
        named: settings without `.slate/env`: what the user has set himself.

    Raises:
        ConfigurationError: half of a server's address is set.
    """

    STANDARD_PORTS: ClassVar[Mapping[str, int]] = {"postgres": 5432, "nats": 4222, "valkey": 6379}

    def __init__(self, named: Settings) -> None:
        self.named = named
        self.directory = named.dir.absolute()
        self._check_halves()

    def _check_halves(self) -> None:
        """Refuse a role, database or password without a host: nobody can tell which server it is for."""
        ours = {"db_name": DATABASE, "db_user": ROLE, "db_password": None}
        given = self.named.model_fields_set
        wrong = [variables()[name] for name, value in ours.items() if name in given and self._set(name) != value]
        if self.named.db_host is None and wrong:
            raise ConfigurationError(
                f"{' and '.join(wrong)} is set, and SLATE_DB_HOST is not: set SLATE_DB_HOST too "
                "to use your own PostgreSQL, or remove it to let `slate up` start one"
            )

    def _set(self, name: str) -> Any:
        return getattr(self.named, name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory: one `slate up` at a time.

        Raises:
            ConfigurationError: another one runs here.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"{self.directory} is not usable ({error.strerror}): set SLATE_DIR to a directory of your own"
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode().strip()
                raise ConfigurationError(
                    f"`slate up` already runs here (pid {holder}, {self.directory}): "
                    "stop it with Ctrl-C there, or set SLATE_DIR to another directory"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def log(self, name: str) -> Path:
        """Return a part's log file; one that has grown large is put aside once as `.old`."""
        path = self.directory / "log" / f"{name}.log"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            if path.stat().st_size > _LARGEST_LOG:
                path.replace(path.with_suffix(".log.old"))
        return path

    def servers(self) -> list[Server]:
        """Make the servers that are ours, with the ports and passwords of the last time.

        Raises:
            ConfigurationError: a port that the user asked for is taken.
        """
        state = self._load_state()
        made: list[Server] = []
        if self.named.db_host is None:
            port, password = self._port(state, "postgres", "db_port"), _password(state, "postgres")
            made.append(
                PostgresServer(self.directory / "postgres", port=port, password=password, log=self.log("postgres"))
            )
        if self.named.nats_url is None:
            port, password = self._port(state, "nats", None), _password(state, "nats")
            made.append(
                NatsServer(self.directory / "nats", port=port, user="slate", password=password, log=self.log("nats"))
            )
        if self.named.redis_host is None:
            port = self._port(state, "valkey", "redis_port")
            made.append(ValkeyServer(self.directory / "valkey", port=port, log=self.log("valkey")))
        self._write("state.json", json.dumps(state, indent=2) + "\n")
        return made

    def jwt_secret(self) -> dict[str, str]:
        """The key of users' tokens, one of our own unless the user has set where tokens come from."""
        if self.named.jwt_secret is not None or self.named.jwt_jwks_url is not None:
            return {}
        state = self._load_state()
        secret = _password(state, "tokens")
        self._write("state.json", json.dumps(state, indent=2) + "\n")
        return {variables()["jwt_secret"]: secret}

    def settings(self, servers: list[Server]) -> Settings:
        """Return the user's settings completed by our servers."""
        environment = _environment(servers) | self.jwt_secret()
        fields = {name: environment[one] for name, one in variables().items() if one in environment}
        given = {name: self._set(name) for name in self.named.model_fields_set}
        return Settings.load(local=False, **(given | fields | {"dir": self.directory}))

    @contextmanager
    def announced(self, servers: list[Server], metrics_port: int) -> Iterator[None]:
        """Let the commands of other terminals find our servers and worker while the context lasts."""
        lines = [f"{name}={value}" for name, value in (_environment(servers) | self.jwt_secret()).items()]
        if "metrics_port" not in self.named.model_fields_set:
            lines.append(f"{variables()['metrics_port']}={metrics_port}")
        self._write(LOCAL_ENV, "# Written by `slate up`; gone when it stops.\n" + "\n".join(lines) + "\n")
        try:
            yield
        finally:
            (self.directory / LOCAL_ENV).unlink(missing_ok=True)

    def _port(self, state: dict[str, dict[str, Any]], name: str, field: str | None) -> int:
        """Choose a port: the user's wish, else the first that is free of the last, the standard and any."""
        if field is not None and field in self.named.model_fields_set:
            port = int(self._set(field))
            if not port_is_free(port):
                raise ConfigurationError(
                    f"{variables()[field]}={port} is taken: unset it to let `slate up` choose a port, "
                    "or set the host too to use the server that listens there"
                )
        else:
            wishes = [state.get(name, {}).get("port"), self.STANDARD_PORTS[name]]
            port = next((one for one in wishes if one and port_is_free(one)), None) or free_port()
        state.setdefault(name, {})["port"] = port
        return port

    def _load_state(self) -> dict[str, dict[str, Any]]:
        path = self.directory / "state.json"
        try:
            state: dict[str, dict[str, Any]] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise ConfigurationError(
                f"{path} is damaged: bring it back, or delete {self.directory} to start anew"
            ) from None
        return state

    def _write(self, name: str, text: str) -> None:
        """Write a file that only we can read, whole or not at all."""
        new = self.directory / f"{name}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.directory / name)


def _password(state: dict[str, dict[str, Any]], name: str) -> str:
    return str(state.setdefault(name, {}).setdefault("password", secrets.token_hex(24)))


def _environment(servers: list[Server]) -> dict[str, str]:
    return {key: value for server in servers for key, value in server.environment().items()}
