"""Events on disk in the order in which they came, in segments that only grow and are deleted whole.

Guarantee: a record that `append` returned for outlives the process, however that ends: one write(2) has put it in the
kernel's page cache. Nothing is forced to the disk, so a power cut may lose the last moments.

    <directory>/<name>/lock             held (flock) by the process whose segments these are
    <directory>/<name>/00000001.log     records: length, CRC-32 of the body, CRC-32 of these two, body
    <directory>/<name>-00000001.log.damaged   a segment that could not be read to its end, kept for a person

Names sort by the time at which the process began. Directories have mode 0700 and files 0600: events may hold code.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import re
import secrets
import struct
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec
import structlog

from connectors.errors import ConfigurationError, PublishError

SEGMENT_BYTES: Final = 4 << 20
"""Size above which no record is added to a segment, unless it is the first."""
KEEP_BYTES: Final = 64 << 10
"""A segment that is acknowledged is deleted early when it is so large: what it holds is sent again after a crash."""
_READ_BYTES: Final = 256 << 10
_CHECKED: Final = struct.Struct("<II")
_HEADER: Final = struct.Struct("<III")
_LOCK: Final = "lock"
_NAME: Final = re.compile(r"\d{20}-[0-9a-f]{8}")

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """An event: what is published, and when it was accepted (nanoseconds since 1970)."""

    subject: str
    msg_id: str
    payload: bytes
    headers: dict[str, str] | None
    accepted_ns: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class _DamagedError(Exception):
    """These bytes are not those that were written."""


def frame(record: Record) -> bytes:
    """A record as it stands in a segment."""
    body = _encode(record)
    checked = _CHECKED.pack(len(body), crc32(body))
    return b"".join((checked, crc32(checked).to_bytes(4, "little"), body))


def _header(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Length and CRC of the body whose header is at `at`."""
    length, body_crc, header_crc = _HEADER.unpack_from(data, at)
    if crc32(data[at : at + _CHECKED.size]) != header_crc:
        raise _DamagedError("its header is not what was written")
    return length, body_crc


class _Directory:
    """One process's segments, locked by us."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.segments: set[Segment] = set()
        self._lock = lock

    def release(self) -> None:
        """Let another process have it; delete it where nothing is left in it."""
        with suppress(OSError):
            if [one.name for one in self.path.iterdir()] == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()
        os.close(self._lock)


class Segment:
    """A file, and how far it is written, read and acknowledged: `records` in `size` bytes, `read` in `offset`."""

    __slots__ = ("acknowledged", "damaged", "directory", "offset", "path", "read", "records", "size")

    def __init__(self, directory: _Directory, path: Path, size: int = 0, records: int = 0) -> None:
        self.directory = directory
        self.path = path
        self.size = size
        self.records = records
        self.offset = self.read = self.acknowledged = 0
        self.damaged = False
        directory.segments.add(self)


def _measure(path: Path) -> tuple[int, int]:
    """Bytes and records that a process has left; the torn record at the end, if any, was never accepted."""
    size = records = 0
    with path.open("rb") as file:
        whole = os.fstat(file.fileno()).st_size
        if not whole:
            return 0, 0
        with mmap.mmap(file.fileno(), whole, access=mmap.ACCESS_READ) as data:
            while whole - size >= _HEADER.size:
                try:
                    length, _ = _header(data, size)
                except _DamagedError:
                    return whole, records  # the reader comes to it, and says so
                if size + _HEADER.size + length > whole:
                    break
                size += _HEADER.size + length
                records += 1
    return size, records


class _Reader:
    """Reads one segment at a time, some records ahead."""

    def __init__(self) -> None:
        self._segment: Segment | None = None
        self._file = -1
        self._start = 0
        self._buffer = b""

    def next(self, segment: Segment) -> Record:
        """The record at the segment's offset, which moves on; raises OSError or _DamagedError where there is none."""
        if segment is not self._segment:
            self.close()
            self._file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            self._segment = segment
        at = self._position(segment, _HEADER.size)
        length, body_crc = _header(self._buffer, at)
        at = self._position(segment, _HEADER.size + length) + _HEADER.size
        body = self._buffer[at : at + length]
        if crc32(body) != body_crc:
            raise _DamagedError("a record is not what was written")
        try:
            record = _decode(body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise _DamagedError(f"a record is of another version: {error}") from None
        segment.offset += _HEADER.size + length
        segment.read += 1
        return record

    def close(self) -> None:
        if self._segment is not None:
            os.close(self._file)
        self._segment, self._buffer = None, b""

    def _position(self, segment: Segment, count: int) -> int:
        """Where in the buffer the segment's offset is; `count` bytes follow it."""
        if count > segment.size - segment.offset:
            raise _DamagedError("it ends within a record")
        if not self._start <= segment.offset <= self._start + len(self._buffer) - count:
            wanted = min(max(count, _READ_BYTES), segment.size - segment.offset)
            self._start, self._buffer = segment.offset, os.pread(self._file, wanted, segment.offset)
            if len(self._buffer) < count:
                raise _DamagedError("it is shorter than what was written")
        return segment.offset - self._start


class Journal:
    """What this process has appended, and what it has adopted of processes that have ended.

    `pending` counts the records that are not acknowledged, `bytes` the size of the segments that hold them. Not safe
    for threads.

    Args:
        root: where each process has a directory; made where it is missing.
        max_bytes: `append` refuses what would make the segments larger than this together.

    Raises:
        ConfigurationError: `root` cannot be written.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root.absolute()
        self._max_bytes = max_bytes
        try:
            self._own = _new_directory(self._root)
        except OSError as error:
            raise ConfigurationError(
                f"{self._root} cannot be written ({error.strerror}): set SLATE_SPILL_DIR to a directory that can"
            ) from None
        self._directories = [self._own]
        self._unread: deque[Segment] = deque()
        self._reader = _Reader()
        self._current: Segment | None = None
        self._file = -1
        self._number = 0
        self.pending = 0
        self.bytes = 0

    def append(self, record: Record) -> None:
        """Write a record; it is in the file, whole, when this returns.

        Raises:
            PublishError: the journal or the disk is full, or the disk fails; nothing of it counts then.
        """
        data = frame(record)
        if self.bytes + len(data) > self._max_bytes:
            raise PublishError(
                f"{self.pending} events wait in {self._root}, as much as may: NATS has been away for too long. "
                "Bring it back, or give more room on the disk of SLATE_SPILL_DIR"
            )
        try:
            self._write(data)
        except OSError as error:
            raise PublishError(
                f"{self._root} cannot be written ({error.strerror}): free the disk of SLATE_SPILL_DIR, or set another"
            ) from None
        self.bytes += len(data)
        self.pending += 1

    def read(self) -> tuple[Segment, Record] | None:
        """The next record, None when all are read. What was adopted comes before what was appended."""
        while self._unread:
            segment = self._unread[0]
            if segment.offset < segment.size:
                try:
                    return segment, self._reader.next(segment)
                except (_DamagedError, OSError) as error:
                    self._give_up(segment, error)
            elif segment is self._current:
                return None
            else:
                self._unread.popleft()
                self._finish(segment)
        return None

    def acknowledge(self, segment: Segment) -> None:
        """Count one record of a segment as delivered; the segment is deleted with its last."""
        segment.acknowledged += 1
        self.pending -= 1
        if segment.acknowledged == segment.records and segment.offset == segment.size:
            if segment is self._current:
                if segment.size < KEEP_BYTES:
                    return
                self._seal()
            self._finish(segment)

    async def adopt(self) -> int:
        """Take over what processes have left that have ended; returns how many records that is.

        Raises:
            OSError: the directory cannot be read.
        """
        found: list[Segment] = []
        for path in sorted(one for one in self._root.iterdir() if _NAME.fullmatch(one.name) and one != self._own.path):
            with suppress(OSError):
                path.rmdir()  # its process ended while it made or deleted it
                continue
            with suppress(OSError):  # another user's
                if (lock := _take(path)) is not None:
                    found += await self._measured(_Directory(path, lock))
        self._unread.extendleft(reversed(found))
        return sum(segment.records for segment in found)

    def close(self) -> None:
        """Let go of all directories; what is not acknowledged stays for the next process."""
        self._reader.close()
        if self._current is not None:
            self._seal()
        for directory in list(self._directories):
            for segment in list(directory.segments):
                self._finish(segment)
        for directory in self._directories:
            directory.release()
        self._directories.clear()
        self._unread.clear()

    async def _measured(self, directory: _Directory) -> list[Segment]:
        """The segments of a directory that is ours now."""
        self._directories.append(directory)
        found = []
        for path in sorted(directory.path.glob("*.log")):
            try:
                segment = Segment(directory, path, *_measure(path))
            except OSError as error:
                _log.error("a segment cannot be read", file=str(path), error=str(error))
                continue
            self.pending += segment.records
            self.bytes += segment.size
            found.append(segment)
            await asyncio.sleep(0)  # a segment takes milliseconds, and there may be hundreds
        if not found:
            self._let_go(directory)
        return found

    def _let_go(self, directory: _Directory) -> None:
        self._directories.remove(directory)
        directory.release()

    def _write(self, data: bytes) -> None:
        if self._current is not None and self._current.size + len(data) > SEGMENT_BYTES:
            self._seal()
        if self._current is None:
            path = self._own.path / f"{self._number + 1:08d}.log"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._number += 1
            self._current = Segment(self._own, path)
            self._unread.append(self._current)
        if os.write(self._file, data) < len(data):
            try:
                os.ftruncate(self._file, self._current.size)
            except OSError:
                self._seal()  # nothing may follow the torn record
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._current.size += len(data)
        self._current.records += 1

    def _seal(self) -> None:
        os.close(self._file)
        self._current = None

    def _give_up(self, segment: Segment, error: Exception) -> None:
        """Read no more of a segment. Its file stays until what was read of it is delivered: a crash forgets that."""
        if segment is self._current:
            self._seal()
        lost = segment.records - segment.read
        _log.error(
            "a segment of the journal is damaged; what follows is not sent and its file is set aside",
            file=str(segment.path),
            offset=segment.offset,
            error=str(error),
            records_at_least=lost,
        )
        self.pending -= lost
        segment.records, segment.offset, segment.damaged = segment.read, segment.size, True

    def _finish(self, segment: Segment) -> None:
        """Delete a segment, or set it aside, once nothing of it is to be read or acknowledged."""
        if segment.acknowledged < segment.records or segment.offset < segment.size:
            return
        directory = segment.directory
        directory.segments.discard(segment)
        if segment in self._unread:
            self._unread.remove(segment)
        self.bytes -= segment.size
        try:
            if segment.damaged:
                segment.path.rename(self._root / f"{directory.path.name}-{segment.path.name}.damaged")
            else:
                segment.path.unlink()
        except OSError as error:
            _log.error("a segment cannot be deleted", file=str(segment.path), error=str(error))
        if not directory.segments and directory is not self._own:
            self._let_go(directory)


def _new_directory(root: Path) -> _Directory:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = root / f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        # another process may have taken it for one that was left
        if (lock := _take(path)) is not None:
            return _Directory(path, lock)


def _take(path: Path) -> int | None:
    """Lock a directory; None where another process has it or has just deleted it.

    Raises:
        OSError: no lock can be made there.
    """
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat((path / _LOCK).stat(), os.fstat(lock)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
