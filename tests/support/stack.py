"""A database and a stream for each test, on servers that the whole session shares."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import psycopg
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from connectors.jetstream import ensure_stream
from connectors.schema import migrate
from connectors.settings import Settings
from deploy.processes import variables
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from tests.support.roles import acting

_TEMPLATE = "slate_template"
_numbers = itertools.count(1)


def connect(settings: Settings, **more: str | int) -> psycopg.Connection:
    """Open a connection in autocommit mode: a test sees what is committed now."""
    return psycopg.connect(make_conninfo("", **acting(settings, "oracle").dsn(**more)), autocommit=True)


class HastyPostgresServer(PostgresServer):
    """One with fsync off, which makes a database for each test in a fifth of the time.

    Processes are killed here, not machines: what one has written the kernel keeps.
    """

    def _command(self) -> list[str | Path]:
        return [*super()._command(), "--fsync=off"]


class Stack:
    """The session's servers; makes settings for a database and a stream of a test's own."""

    def __init__(self, postgres: PostgresServer, nats_server: NatsServer, valkey: ValkeyServer) -> None:
        self.postgres = postgres
        self.nats_server = nats_server
        self.valkey = valkey
        self._template_made = False

    def ensure_running(self) -> None:
        """Bring back what an earlier test stopped, paused or killed."""
        for server in (self.postgres, self.nats_server, self.valkey):
            server.resume()
            server.start()

    def forget_caches(self) -> None:
        """Empty Valkey."""
        with redis.Redis(port=self.valkey.port) as client:
            client.flushall()

    @contextmanager
    def provide(self, *, migrated: bool = True, **overrides: Any) -> Iterator[Settings]:
        """Give settings whose database and stream are new, and delete both at the end.

        A migrated database comes with its stream, an empty one has none. The server allows one stream on
        `spark.>` at a time, so only one of them may have its stream at any moment.
        """
        self.ensure_running()
        number = next(_numbers)
        database = f"test_{number}"
        settings = self._settings(**({"db_name": database, "stream": f"TEST_{number}"} | overrides))
        self._create(database, _TEMPLATE if migrated else "template1")
        try:
            asyncio.run(_delete_streams(settings))
            if migrated:
                asyncio.run(ensure_stream(settings))
            yield settings
        finally:
            self.ensure_running()
            asyncio.run(_delete_streams(settings))
            self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def _settings(self, **overrides: Any) -> Settings:
        environment: dict[str, str] = {}
        for server in (self.postgres, self.nats_server, self.valkey):
            environment |= server.environment()
        by_field = {name: environment[one] for name, one in variables().items() if one in environment}
        return Settings.load(local=False, **(by_field | {"metrics_port": 0} | overrides))

    def _create(self, database: str, template: str) -> None:
        if template == _TEMPLATE and not self._template_made:
            # it is there when migrating it failed for an earlier test
            self._administer(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(_TEMPLATE)))
            self._create(_TEMPLATE, "template1")
            migrate(self._settings(db_name=_TEMPLATE))
            self._template_made = True
        names = sql.Identifier(database), sql.Identifier(template)
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(*names))

    def _administer(self, statement: sql.Composed) -> None:
        with connect(self._settings(db_name="postgres")) as connection:
            connection.execute(statement)


async def _delete_streams(settings: Settings) -> None:
    client = await nats.connect(settings.nats_servers())
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            await jetstream.delete_stream(str(stream.config.name))
    finally:
        await client.close()
