"""Writes all data of one user into a ZIP file or a directory: JSON lines by table, pictures, and a manifest.

Format, version 1: `manifest.json` says `format`, `user`, `made_at`, `sessions` and the number of lines of each file;
`<table>.jsonl` has a JSON object a line, by column, as PostgreSQL's `to_jsonb` writes them (times in ISO 8601, numbers
exact); `dead_letters.jsonl` has `payload` and `headers` as text where they are UTF-8, else as `payload_base64` and
`headers_base64`; `frames/` has the pictures that previews refer to, where they are in a directory. Everything is of one
moment: one snapshot of the database.

Guarantee: the file is there whole, mode 0600, or not at all.
"""

import base64
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Protocol
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from connectors.errors import SlateError
from connectors.frames import FileFrames, frame_store
from connectors.link import Connection, open_connection
from connectors.postgres import as_slate_error
from connectors.settings import Settings
from connectors.sql import read
from flows.personal import Person
from flows.user_rows import UserRows

FORMAT: Final = 1
_PAGE: Final = 500

Report = Callable[[str, int, int | None], None]
"""As in `flows.forget`."""


class ExportError(SlateError):
    """An export cannot be written there."""


class Target(Protocol):
    """Where files are written, one after the other."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file."""
        ...


def export(settings: Settings, user: UUID, to: Path | None, report: Report) -> dict[str, int]:
    """Write a user's data, and say how many lines each file has; without a target, only count.

    Raises:
        ConnectionFailedError: PostgreSQL cannot be reached.
        ExportError: there is something at the target already, or it cannot be written.
        SchemaError: the schema is not there, or the role may not read it.
    """
    if to is not None and to.exists():
        raise ExportError(f"{to} is there already: name another, or delete it")
    try:
        with open_connection(settings, "slate-export") as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            with connection.transaction():
                work = _Export(connection, settings, user, report)
                if to is None:
                    return work.write(None)
                with _target(to) as target:
                    return work.write(target)
    except psycopg.Error as error:
        raise as_slate_error(error) from None
    except OSError as error:
        raise ExportError(f"{to} cannot be written: {error.strerror or error}") from None


class _Export:
    def __init__(self, connection: Connection, settings: Settings, user: UUID, report: Report) -> None:
        self._connection = connection
        self._settings = settings
        self._report = report
        self._person = Person(user)
        self._rows = UserRows(connection, settings.stream, user, self._person.sessions)
        self._frames: set[str] = set()
        self._counts: dict[str, int] = {}

    def write(self, target: Target | None) -> dict[str, int]:
        announced = self._rows.announced()
        named = self._rows.named() - announced
        self._person.add(announced | self._rows.remembered() | (named - self._rows.foreign(named)))
        files: dict[str, list[sql.Composed]] = {}
        for table, rows in self._rows.everything():
            files.setdefault(table, []).append(rows)
        for table, parts in files.items():
            self._file(table, target, (line for rows in parts for line in self._lines(rows)))
        self._file("alerts", target, self._alerts())
        self._file("dead_letters", target, self._letters())
        if target is not None:
            self._write_frames(target)
            with target.open("manifest.json") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._manifest()), indent=2) + b"\n")
        return {name: n for name, n in self._counts.items() if n} | {"sessions": len(self._person.sessions)}

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "user": str(self._person.user),
            "made_at": datetime.now(UTC).isoformat(),
            "sessions": sorted(self._person.sessions),
            "lines": self._counts,
        }

    def _file(self, name: str, target: Target | None, lines: Iterator[bytes]) -> None:
        if target is None:
            n = sum(1 for _ in lines)
        else:
            n = 0
            with target.open(f"{name}.jsonl") as file:
                for line in lines:
                    file.write(line + b"\n")
                    n += 1
                    if n % _PAGE == 0:
                        self._report(f"Writing {name}", n, None)
        self._counts[name] = n
        self._report(f"Writing {name}", n, None)

    def _lines(self, rows: sql.Composed) -> Iterator[bytes]:
        statement = sql.SQL("SELECT to_jsonb(t)::text FROM {}").format(rows)
        with self._connection.cursor("slate_export") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(statement, self._rows.parameters())
            for (line,) in cursor:
                found = str(line)
                yield found.encode()

    def _alerts(self) -> Iterator[bytes]:
        parameters = {"user": str(self._person.user), "sessions": list(self._person.sessions)}
        with self._connection.cursor("slate_export_alerts") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(read("forget/export_alerts.sql"), parameters)
            for (line,) in cursor:
                yield str(line).encode()

    def _letters(self) -> Iterator[bytes]:
        with self._connection.cursor("slate_export_letters") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(read("forget/export_dead_letters.sql"))
            for line, subject, payload, headers in cursor:
                if self._person.owns_letter(subject, payload + headers):
                    fields: dict[str, Any] = msgspec.json.decode(line)
                    yield msgspec.json.encode(fields | _readable("payload", payload) | _readable("headers", headers))

    def _write_frames(self, target: Target) -> None:
        store = frame_store(self._settings.frame_store_url, self._settings.frames_token)
        n = 0
        if isinstance(store, FileFrames):
            for (frame,) in self._frame_names():
                path = store.path_of(frame)
                if path is not None and path.is_file():
                    with target.open(f"frames/{frame}") as file, path.open("rb") as picture:
                        shutil.copyfileobj(picture, file)
                    n += 1
        self._counts["frames"] = n

    def _frame_names(self) -> Iterator[tuple[Any, ...]]:
        with self._connection.cursor("slate_export_frames") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(
                "SELECT DISTINCT frame_ref FROM public.spark_previews"
                " WHERE session_id = any(%(sessions)s) AND frame_ref IS NOT NULL",
                self._rows.parameters(),
            )
            yield from cursor


def _readable(name: str, data: bytes) -> dict[str, str]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


@contextmanager
def _target(path: Path) -> Iterator[Target]:
    """A ZIP file where its name ends so, else a directory; it gets its name when it is whole."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    if unfinished.is_dir() and not unfinished.is_symlink():
        shutil.rmtree(unfinished)
    else:
        unfinished.unlink(missing_ok=True)
    try:
        if path.suffix == ".zip":
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with (
                os.fdopen(descriptor, "wb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive,
            ):
                yield _Zip(archive)
        else:
            unfinished.mkdir(mode=0o700)
            yield _Directory(unfinished)
        unfinished.rename(path)
    except BaseException:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
        raise


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        entry = zipfile.ZipInfo(name, datetime.now(UTC).timetuple()[:6])
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = 0o600 << 16
        return self._archive.open(entry, "w", force_zip64=True)


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        path = self._root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
