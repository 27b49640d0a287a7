"""Who ran which administrative command, and what came of it: `slate.admin_log`, to which rows are only ever added.

Guarantee: nothing is done before its beginning is in the log, so a command that was killed is seen there, without an
end. A command whose beginning cannot be written is not run. Arguments never hold the id of a user or of a session, only
its SHA-256: who is to be forgotten must not stay here.
"""

import getpass
import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
import psycopg
import structlog

from connectors.errors import SlateError
from connectors.link import open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.sql import read

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class AdminRun(msgspec.Struct):
    """One run of a command. What is put into `counts` is in the log when it ends; `failed` where it ends without an
    error but not well."""

    run: UUID
    counts: dict[str, int] = {}
    failed: bool = False


def disguised(text: str) -> str:
    """The SHA-256 of an id: who has the id can tell that it is meant, and nobody else can."""
    return f"sha256:{hashlib.sha256(text.lower().encode()).hexdigest()}"


def without_ids(text: str) -> str:
    """A text in which every UUID is disguised."""
    return _UUID.sub(lambda found: disguised(found[0]), text)


@contextmanager
def logged(
    settings: Settings, command: str, arguments: Mapping[str, Any] | None = None, *, makes_it: bool = False
) -> Iterator[AdminRun]:
    """Write that a command begins, and how it ended when the body is left.

    Args:
        settings: name the server.
        command: without `slate` in front.
        arguments: what it was told; None is left out. Texts may hold UUIDs, which are disguised, and no secrets.
        makes_it: the command may make the log; where there is none yet, its beginning is written at its end.

    Raises:
        ConnectionFailedError: PostgreSQL cannot be reached.
        SchemaError: the table is not there, or the role may not add to it.
    """
    run = AdminRun(uuid4())
    told = without_ids(msgspec.json.encode({k: v for k, v in (arguments or {}).items() if v is not None}).decode())
    begun = _append(settings, run, "begun", command, told, may_lack=makes_it)
    try:
        yield run
    except BaseException as error:
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        try:
            if begun:
                _append(settings, run, "ended", command, told, outcome, type(error).__name__)
        except SlateError as trouble:
            _log.warning("the end of a command is not in the log", command=command, error=str(trouble))
        raise
    if not begun:
        _append(settings, run, "begun", command, told)
    _append(settings, run, "ended", command, told, "failed" if run.failed else "done")


def _append(
    settings: Settings,
    run: AdminRun,
    phase: str,
    command: str,
    arguments: str,
    outcome: str | None = None,
    error: str | None = None,
    *,
    may_lack: bool = False,
) -> bool:
    """Add a row; false where there is no table and it may be so."""
    parameters = {
        "run": run.run,
        "phase": phase,
        "command": command,
        "arguments": arguments,
        "os_user": _os_user(),
        "host": socket.gethostname(),
        "outcome": outcome,
        "error": error,
        "counts": None if outcome is None else msgspec.json.encode(run.counts).decode(),
    }
    try:
        with open_connection(settings, "slate-admin-log") as connection:
            connection.execute(read("admin_log/append.sql"), parameters)
    except psycopg.Error as trouble:
        if may_lack and isinstance(trouble, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return False
        raise as_slate_error(trouble) from None
    return True


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # of a container, which has a number and no name
