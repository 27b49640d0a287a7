"""Deletes all data of one user: in the stream, in PostgreSQL, in Redis and among the pictures of previews.

The order makes it safe to be killed anywhere and run again. First it is found out which sessions are theirs, and that
is written down (`slate.forgetting`), for what tells so is deleted, too. Then workers that run are waited for until they
have stored and counted what is to go; a partition that nobody reads is held, so that nobody begins to. Only then
messages are erased, and rows deleted, each page together with what it had added to totals and windows. Identities of
events (`slate.event_ids`) stay: they are hashes that nothing links to a person, and a message that is delivered once
more is known by them and not stored.
"""

import asyncio
import time
from array import array
from collections.abc import Callable
from itertools import islice
from typing import Final
from uuid import UUID

import psycopg

from connectors.erasure import Erasure
from connectors.errors import SlateError
from connectors.frames import frame_store
from connectors.jetstream import partition_numbers
from connectors.link import open_connection
from connectors.postgres import as_slate_error
from connectors.redis_erasure import erase_traces, leases
from connectors.settings import Settings
from connectors.stream_state import StreamState
from flows.dead_letters import Filter, find
from flows.personal import Person, frame_of, names, session_of
from flows.user_rows import SMALL, TABLES, UserRows

_TURNS: Final = 3
_STALLED_S: Final = 60.0
_LOOK_AGAIN_S: Final = 5.0
_POLL_S: Final = 0.2
_LETTERS: Final = 500
_ERASED_AT_ONCE: Final = 250

Report = Callable[[str, int, int | None], None]
"""Hears what is being done, how much of it is done, and of how much (None: not known)."""


class ForgetError(SlateError):
    """A user's data cannot be deleted now; what is deleted already stays so, and running it again goes on."""


class Forgetting:
    """One user's data.

    Args:
        settings: name the servers.
        user: whose data.
        report: hears how it goes.
        dry_run: only count.
    """

    def __init__(self, settings: Settings, user: UUID, report: Report, *, dry_run: bool = False) -> None:
        self._settings = settings
        self._report = report
        self._dry_run = dry_run
        self._person = Person(user)
        self._matched = array("Q")
        self._frames: set[str] = set()
        self._kept_first: int | None = None
        self._scanned = 0
        self.counts: dict[str, int] = {}
        """What was deleted, or would be: rows by table, `messages`, `frames`, `redis_keys`, `sessions`."""

    async def run(self) -> None:
        """Do it.

        Raises:
            ConnectionFailedError: a server cannot be reached, or refuses.
            ForgetError: a session of theirs is live, workers do not get on, or events of theirs wait on this machine.
            SchemaError: the schema is not there, or the role may not delete.
            StreamError: there is no stream, or one that reads it hangs.
        """
        try:
            with open_connection(self._settings, "slate-forget") as connection:
                person = self._person
                self._rows = UserRows(connection, self._settings.stream, person.user, person.sessions)
                await self._sessions()
                await self._refuse_live()
                async with Erasure(self._settings) as stream:
                    await self._forget(stream)
        except psycopg.Error as error:
            raise as_slate_error(error) from None

    async def _forget(self, stream: Erasure) -> None:
        state = await stream.state()
        await self._scan_all(stream, state)
        if self._dry_run:
            await self._count()
            return
        for _ in range(_TURNS):
            await stream.hold()
            await self._settle(stream)
            state = await stream.state()
            before = len(self._matched)
            await self._scan_all(stream, state)
            if len(self._matched) == before:
                break
        else:
            raise ForgetError("events of this user still come in: end what publishes them, and run this again")
        await self._refuse_live()
        await self._delete_frames()
        await self._erase(stream, state)
        await self._delete_rows()
        keys = await asyncio.to_thread(
            erase_traces, self._settings, str(self._person.user), sorted(self._person.sessions)
        )
        self._add("redis_keys", keys)
        await self._look_again()

    # ---- which sessions ------------------------------------------------------------------------------------------

    async def _sessions(self) -> None:
        self._report("Looking for sessions", 0, None)
        rows = self._rows
        remembered = await asyncio.to_thread(rows.remembered)
        announced = await asyncio.to_thread(rows.announced)
        named = await asyncio.to_thread(rows.named) - announced - remembered
        foreign = await asyncio.to_thread(rows.foreign, named)
        await self._take(remembered | announced | (named - foreign))

    async def _take(self, sessions: set[str]) -> None:
        self._person.add(sessions)
        if not self._dry_run:
            await asyncio.to_thread(self._rows.remember, sessions)
        self.counts["sessions"] = len(self._person.sessions)

    async def _refuse_live(self) -> None:
        user = str(self._person.user)
        live = await asyncio.to_thread(self._rows.live) | set(await asyncio.to_thread(leases, self._settings, user))
        if live and not self._dry_run:
            raise ForgetError(
                f"the user has {len(live)} live sessions ({', '.join(sorted(live)[:3])}), whose events would come "
                "anew: end them, wait for five minutes, and run this again"
            )

    # ---- the stream ----------------------------------------------------------------------------------------------

    async def _scan_all(self, stream: Erasure, state: StreamState) -> None:
        """Find all messages; sessions that only the stream knows may be found, and then it is read once more."""
        rejected: set[str] = set()
        for _ in range(_TURNS):
            candidates = await self._scan(stream, state) - rejected
            if not candidates:
                return
            foreign = await asyncio.to_thread(self._rows.foreign, candidates) | await self._shared(
                stream, state, candidates
            )
            rejected |= foreign
            if not candidates - foreign:
                return
            await self._take(candidates - foreign)
        raise ForgetError("sessions of this user still begin: end what publishes them, and run this again")

    async def _scan(self, stream: Erasure, state: StreamState) -> set[str]:
        """Note the messages that are theirs; returns other sessions in which something names them."""
        person, candidates = self._person, set[str]()
        self._matched, self._kept_first = array("Q"), None
        async for batch in stream.scan(state.first, state.last):
            for message in batch:
                if not person.owns(message):
                    if self._kept_first is None:
                        self._kept_first = message.sequence
                    continue
                self._matched.append(message.sequence)
                if frame := frame_of(message.payload):
                    self._frames.add(frame)
                session = session_of(message.subject)
                if session not in person.sessions and names(message.payload) == person.user:
                    candidates.add(session)
            self._report("Reading the stream", batch[-1].sequence - state.first + 1, state.last - state.first + 1)
        self._scanned = state.last
        self.counts["messages"] = len(self._matched)
        return candidates

    async def _shared(self, stream: Erasure, state: StreamState, sessions: set[str]) -> set[str]:
        """Sessions in which a message names another user."""
        found: set[str] = set()
        async for batch in stream.scan(state.first, state.last):
            for message in batch:
                session = session_of(message.subject)
                if session in sessions and names(message.payload) not in (None, self._person.user):
                    found.add(session)
            self._report("Reading the stream", batch[-1].sequence - state.first + 1, state.last - state.first + 1)
        return found - await asyncio.to_thread(self._rows.announced)

    async def _settle(self, stream: Erasure) -> None:
        """Wait until all workers have stored and counted what is to be erased, where there are workers."""
        until = self._matched[-1] if self._matched else 0
        moved = looked = time.monotonic()
        seen: object = None
        while True:
            positions = await asyncio.to_thread(self._rows.positions)
            waits, anew = [], False
            for partition in partition_numbers(self._settings):
                stored, counted, uncounted = positions.get(partition, (0, 0, 0))
                behind = uncounted > 0 and counted < min(stored, until)
                unread = stored < until and partition not in stream.held["ingest"]
                if unread or (behind and partition not in stream.held["rollups"]):
                    waits.append((partition, stored, counted))
                anew = anew or behind
            if not waits:
                if not anew:
                    return
                self._report("Counting what nobody counts", 0, None)
                await asyncio.to_thread(self._rows.count_anew)
                continue
            now = time.monotonic()
            if waits != seen:
                seen, moved = waits, now
            if now - moved > _STALLED_S:
                raise ForgetError(
                    f"workers do not get on: {len(waits)} partitions are not stored and counted up to message {until} "
                    "of the stream; see `slate doctor`, and run this again. Nothing is deleted yet"
                )
            if now - looked > _LOOK_AGAIN_S:
                await stream.hold()  # one that was read may be read by nobody now
                looked = time.monotonic()
            self._report("Waiting for workers", min(min(one[1:]) for one in waits), until)
            await asyncio.sleep(_POLL_S)

    async def _erase(self, stream: Erasure, state: StreamState) -> None:
        upto = self._scanned if self._kept_first is None else self._kept_first - 1
        if self._matched:
            for partition in sorted(stream.held["ingest"]):
                await asyncio.to_thread(self._rows.skip, partition, state.created, state.first, upto)
        sequences, done = iter(self._matched), 0
        while some := list(islice(sequences, _ERASED_AT_ONCE)):
            await stream.erase(some)
            done += len(some)
            self._report("Erasing messages", done, len(self._matched))

    # ---- PostgreSQL and files ------------------------------------------------------------------------------------

    async def _delete_frames(self) -> None:
        store = frame_store(self._settings.frame_store_url, self._settings.frames_token)
        try:
            pages = self._rows.frames()
            page: list[str] | None = await asyncio.to_thread(self._rows.unshared, self._frames)
            while page is not None:
                for frame in page:
                    self._add("frames", int(await store.remove(frame)))
                self._report("Deleting previews", self.counts.get("frames", 0), None)
                page = await asyncio.to_thread(next, pages, None)
        finally:
            await store.close()

    async def _delete_rows(self) -> None:
        rows = self._rows
        for table in TABLES:
            pages = rows.delete(table)
            while (page := await asyncio.to_thread(next, pages, None)) is not None:
                gone, upto = page
                self._add(table.name, gone)
                self._report(f"Deleting rows of {table.name}", upto, None)
        aside = rows.delete_aside()
        while (gone_aside := await asyncio.to_thread(next, aside, None)) is not None:
            self._add("spark_events", gone_aside)
        await self._delete_letters()
        for name, gone in (await asyncio.to_thread(rows.delete_bookkeeping)).items():
            self._add(f"slate.{name}", gone)
        self._report("Deleting sessions", 0, None)
        for name in SMALL:
            self._add(name, await asyncio.to_thread(rows.delete_small, name))
            self._report("Deleting sessions", 0, None)

    async def _delete_letters(self) -> None:
        letters = find(self._settings, Filter(replayed=True))
        seen = 0
        while some := await asyncio.to_thread(lambda: list(islice(letters, _LETTERS))):
            seen += len(some)
            theirs = [one.id for one in some if self._person.owns_letter(one.subject, one.payload + one.headers)]
            if theirs and not self._dry_run:
                await asyncio.to_thread(self._rows.delete_letters, theirs)
            self._add("slate.dead_letters", len(theirs))
            self._report("Reading dead letters", seen, None)

    async def _count(self) -> None:
        for name, n in (await asyncio.to_thread(self._rows.count)).items():
            self._add(name, n)
        await self._delete_letters()
        user, sessions = str(self._person.user), sorted(self._person.sessions)
        self._add("redis_keys", await asyncio.to_thread(erase_traces, self._settings, user, sessions, dry_run=True))

    async def _look_again(self) -> None:
        """See that nothing came meanwhile, and that nothing waits on this machine to come."""
        self._report("Looking again", 0, None)
        left = await asyncio.to_thread(self._rows.count)
        named = await asyncio.to_thread(self._rows.named)
        if left or named:
            raise ForgetError("events of this user came in meanwhile: end what publishes them, and run this again")
        waiting = await asyncio.to_thread(self._waiting)
        if waiting:
            raise ForgetError(
                f"all is deleted, but events of this user are among those in {waiting} that wait for NATS, or were "
                "sent a moment ago: when `python -m realtime.api` has sent them and is started again, run this again"
            )
        await asyncio.to_thread(self._rows.finish)

    def _waiting(self) -> str | None:
        """A file of the outbox that holds events of theirs."""
        directory = self._settings.spill_directory
        if directory.is_dir():
            for path in sorted(directory.rglob("*.log*")):
                try:
                    if self._person.is_in(path.read_bytes()):
                        return str(path)
                except FileNotFoundError:
                    continue  # it was sent
                except OSError as error:
                    raise ForgetError(
                        f"all is deleted, but whether events of this user wait in {path} cannot be seen "
                        f"({error.strerror}): run this again as the user whose file it is"
                    ) from None
        return None

    def _add(self, name: str, n: int) -> None:
        if n:
            self.counts[name] = self.counts.get(name, 0) + n
