"""Lets browsers into NATS, each to hear one session of its user: the service that NATS asks (auth callout).

A browser connects to the WebSocket listener with the session's id as user and its user's token as password, or as
token. It may subscribe to the subjects of that session, publish nothing, and stays until its token ends. NATS asks one
of the HTTP services that run; while there is none, only browsers cannot connect.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import nats.errors
import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter

from connectors.errors import ConfigurationError, ConnectionFailedError, SlateError
from connectors.jetstream import connect
from connectors.limits import LimitExceededError, Window
from connectors.reads import ReadTimeoutError
from connectors.settings import Settings
from realtime import queries
from realtime.api.guard import NotFoundError, whose
from realtime.auth import Authenticator, Identity, NotAllowedError, NotAuthenticatedError, Permission
from realtime.nkey import Signer, verified

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "slate-callout"
"""Of several services, one answers."""
ACCOUNT: Final = "SPARK"
"""Into which browsers are let, as `deploy/nats/accounts.conf` has it."""
HEARD: Final = ("spark.*.{}", "spark.*.*.{}", "spark.*.*.*.{}")
"""Subjects of a session, as the wire contract has them."""
CALLOUTS: Final = Counter("spark_nats_callouts", "Browsers that wanted into NATS, by outcome", ["outcome"])

_SESSION: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]{1,255}")
_AT_ONCE: Final = 64
_OUTCOMES: Final[tuple[tuple[type[SlateError], str], ...]] = (
    (NotAuthenticatedError, "bad_token"),
    (NotAllowedError, "not_allowed"),
    (NotFoundError, "not_found"),
    (LimitExceededError, "limited"),
    (ConnectionFailedError, "unavailable"),
    (ReadTimeoutError, "unavailable"),
)

_log = structlog.get_logger(__name__)

MayHear = Callable[[Identity, str], Awaitable[None]]


class NatsCallout:
    """The service, as an async context manager; NATS may come later.

    Args:
        settings: `nats_callout_url` and `nats_callout_seed` are set.
        authenticator: verifies tokens.
        may_hear: raises a SlateError where a user may not hear a session.

    Raises:
        ConfigurationError: one of them is missing, or the seed is none.
    """

    def __init__(self, settings: Settings, authenticator: Authenticator, may_hear: MayHear) -> None:
        if settings.nats_callout_url is None or settings.nats_callout_seed is None:
            raise ConfigurationError("set both SLATE_NATS_CALLOUT_URL and SLATE_NATS_CALLOUT_SEED, or none of them")
        self._settings = settings.model_copy(update={"nats_url": settings.nats_callout_url, "nats_inbox": "_INBOX"})
        self._signer = Signer(settings.nats_callout_seed)
        self._authenticator = authenticator
        self._may_hear = may_hear
        self._answering: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        client = await connect(self._settings, "slate-callout", wait=True)
        try:
            await client.subscribe(SUBJECT, queue=QUEUE, cb=self._asked)
            _log.info("browsers may connect to NATS")
            await asyncio.Event().wait()
        finally:
            for task in self._answering:
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await client.close()

    async def _asked(self, message: Msg) -> None:
        await self._room.acquire()
        task = asyncio.create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            CALLOUTS.labels("failed").inc()
            _log.error("a browser could not be judged: this is a fault of the program", error=repr(error))

    async def _answer(self, message: Msg) -> None:
        try:
            asked = verified(message.data.decode())
            told = asked["nats"]
            user, server = told["user_nkey"], told["server_id"]["id"]
            if server != asked["iss"] or asked["aud"] != "nats-authorization-request":
                raise ValueError("asked by another")
        except (ValueError, KeyError, TypeError):
            CALLOUTS.labels("malformed").inc()
            return
        if asked.get("exp", 0) <= time.time():
            CALLOUTS.labels("late").inc()
            return
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        try:
            answer["jwt"] = await self._admit(user, told.get("connect_opts") or {}, told.get("client_info") or {})
        except SlateError as error:
            outcome = next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "failed")
            answer["error"] = str(error)
        else:
            outcome = "allowed"
        CALLOUTS.labels(outcome).inc()
        with suppress(nats.errors.Error):  # the connection is gone, and the browser with it
            await message.respond(self._signer.sign({"sub": user, "aud": server, "nats": answer}).encode())

    async def _admit(self, user: str, options: dict[str, Any], client: dict[str, Any]) -> str:
        """What NATS lets a browser do.

        Raises:
            SlateError: why it may not come in.
        """
        session_id, token = options.get("user") or "", options.get("pass") or options.get("auth_token") or ""
        if client.get("type") != "websocket":
            raise NotAuthenticatedError("no user of this name has a password here, and browsers come by WebSocket")
        if not _SESSION.fullmatch(session_id):
            raise NotFoundError("the user must be the id of a session")
        identity = await self._authenticator.verify(token)
        expires = int(identity.expires_at.timestamp())
        if expires <= time.time():
            raise NotAuthenticatedError("the token has expired")
        identity.require(Permission.READ)
        await self._may_hear(identity, session_id)
        return self._signer.sign(
            {
                "sub": user,
                "aud": ACCOUNT,
                "name": f"browser of {identity.user_id}",
                "exp": expires,
                "nats": {
                    "type": "user",
                    "version": 2,
                    "pub": {"deny": [">"]},
                    "sub": {"allow": [one.format(session_id) for one in HEARD]},
                    "subs": -1,
                    "data": -1,
                    "payload": -1,
                    "allowed_connection_types": ["WEBSOCKET"],
                },
            }
        )


def hearing(state: Any) -> MayHear:
    """Whether a user may hear a session, as the endpoints of the service judge it (`state` is its own)."""

    async def may_hear(identity: Identity, session_id: str) -> None:
        if state.settings.api_limit:
            await state.limiter.acquire([(identity.user_id, Window("requests", state.settings.api_limit, 60.0))])
        if state.live is not None:
            with suppress(NotFoundError):
                state.live.of(identity, session_id)
                return
        user = whose(identity)
        found = await queries.session(state.reader, UUID(user) if user is not None else None, session_id, fresh=True)
        if found is None:
            raise NotFoundError(f"there is no session {session_id[:60]!r}")

    return may_hear
