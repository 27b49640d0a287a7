"""The stack as an operator secures it: TLS everywhere, least privilege, PgBouncer in front, a replica behind.

`pytest --secured tests/acceptance` runs on it. A test's settings are those of an operator (`slate_owner`, the NATS user
`admin`); `tests.support.roles` gives workers, publishers, the HTTP service and the test's own looks theirs.
"""

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nats
from psycopg import sql
from pydantic import SecretStr

from connectors.jetstream import ensure_stream
from connectors.schema import migrate
from connectors.settings import Settings
from connectors.sql import read
from deploy.servers import DATABASE
from tests.support import roles, secure_nats
from tests.support.roles import Part
from tests.support.secure_nats import INBOXES, SecureNats
from tests.support.secure_postgres import ROLES, SecurePostgres
from tests.support.secure_redis import SecureRedis
from tests.support.waiting import eventually

STREAM = "SPARK"
_EVERYTHING = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON c.relnamespace = n.oid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT LIKE '%yoyo%'
    AND (n.nspname = 'slate' OR n.nspname = 'public' AND c.relname LIKE 'spark\\_%')
"""
_OPERATOR = """
      {{ user: operator, password: "{password}" }}
      # The app, sessions"""


class SecuredStack:
    """The session's secured servers, in the place of `tests.support.stack.Stack`."""

    def __init__(self, directory: Path) -> None:
        self._secure = SecurePostgres(directory)
        authority = self._secure.authority
        self._operator = secrets.token_hex(16)
        self._nats = SecureNats(
            directory / "nats", authority=authority, configuration=self._configuration(directory / "nats-conf")
        )
        self.nats_server = self._nats.nodes[0]
        self.valkey = SecureRedis(directory / "redis", authority, password=secrets.token_hex(16))
        self._taken = False

    @property
    def postgres(self) -> Any:
        """The primary."""
        return self._secure.primary

    def start(self) -> None:
        """Start everything; from now on, parts act as themselves."""
        self._secure.start()
        self._nats.start()
        self.valkey.start()
        roles.install(self._acting)

    def stop(self) -> None:
        """End everything."""
        self.valkey.stop()
        for node in self._nats.nodes:
            node.kill()
        self._secure.stop()

    def ensure_running(self) -> None:
        """Bring back what an earlier test stopped, paused or killed."""
        for server in (self._secure.primary, self._secure.replica, self._secure.pooler, *self._nats.nodes, self.valkey):
            server.resume()
            server.start()
        eventually(self._secure.caught_up, 30, what="the replica follows")

    def forget_caches(self) -> None:
        """Empty Redis: nobody but its machine may, so it loses its files."""
        self.valkey.kill()
        shutil.rmtree(self.valkey.directory / "appendonlydir", ignore_errors=True)
        self.valkey.start()

    @contextmanager
    def provide(self, *, migrated: bool = True, **overrides: Any) -> Iterator[Settings]:
        """Give settings of the one database and the one stream that are there, emptied."""
        assert not self._taken, "the secured stack has one database and one stream"
        self._taken = True
        overrides.pop("stream", None)
        try:
            self.ensure_running()
            settings = self._settings(**overrides)
            self._empty(settings, migrated)
            asyncio.run(self._delete_stream())
            if migrated:
                asyncio.run(ensure_stream(settings))
            yield settings
        finally:
            self._taken = False

    def _settings(self, **overrides: Any) -> Settings:
        settings = self._secure.settings("owner", **(self.valkey.fields() | overrides))
        return self._nats.settings(settings, "admin")

    def _acting(self, settings: Settings, part: Part) -> Settings:
        if settings.ca_file != self._secure.authority.file:
            return settings  # of another stack
        if part == "oracle":
            update = {
                "db_host": str(self._secure.primary.directory),
                "db_port": self._secure.primary.port,
                "db_user": "postgres",
                "db_password": SecretStr(self._secure.primary.superuser_password),
                "nats_url": SecretStr(f"tls://operator:{self._operator}@localhost:{self.nats_server.port}"),
                "nats_inbox": "_INBOX",
            }
            return settings.model_copy(update=update)
        role, user = {"worker": ("writer", "worker"), "publisher": ("writer", "publisher")}.get(
            part, ("reader", "publisher")
        )
        name = ROLES[role]
        update = {
            "db_user": name,
            "db_password": SecretStr(self._secure.password(name)),
            "nats_url": SecretStr(self._nats.url(user)),
            "nats_inbox": INBOXES[user],
        }
        return settings.model_copy(update=update)

    def _configuration(self, directory: Path) -> Path:
        """Ours, with one more user who may do everything: the test."""
        shutil.copytree(secure_nats.CONFIGURATION, directory)
        path = directory / "accounts.conf"
        text = path.read_text()
        assert text.count("# The app, sessions") == 1
        assert text.count("auth_users: [publisher") == 1
        text = text.replace("\n      # The app, sessions", _OPERATOR.format(password=self._operator))
        path.write_text(text.replace("auth_users: [publisher", "auth_users: [operator, publisher"))
        return directory

    def _empty(self, settings: Settings, migrated: bool) -> None:
        with ExitStack() as stack:
            connection = stack.enter_context(self._secure.primary.admin())
            connection.execute("SET session_replication_role = replica")  # the log of commands lets nobody empty it
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND usename LIKE 'slate\\_%%' AND backend_type = 'client backend'",
                (DATABASE,),
            )
            if not migrated:
                connection.execute("DROP SCHEMA slate CASCADE")
                connection.execute("DROP OWNED BY slate_owner CASCADE")
                connection.execute(read("roles/roles.sql").encode())
                return
            tables = [row[0] for row in connection.execute(_EVERYTHING.encode())]
            if tables:
                connection.execute(
                    sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(map(sql.SQL, tables)))
                )
        migrate(settings)

    async def _delete_stream(self) -> None:
        url = self._acting(self._settings(), "oracle").nats_servers()
        client = await nats.connect(url, tls=self._settings().tls())
        try:
            for stream in await client.jetstream().streams_info():
                await client.jetstream().delete_stream(str(stream.config.name))
        finally:
            await client.close()
