"""What the sessions of a process share: NATS, Redis, OpenAI, Unity, and who may do what."""

import asyncio
import hashlib
import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import structlog
from openai import AsyncOpenAI
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from connectors.breaker import Breaker, StateName
from connectors.errors import ConfigurationError
from connectors.frames import FrameStore, frame_store
from connectors.outbox import Outbox
from connectors.redis_fallback import Fallback
from connectors.settings import Settings
from connectors.tracing import start as start_tracing
from connectors.unity import UnityServer
from realtime.auth import Authenticator, Identity, NotAllowedError, Permission
from realtime.bridge import UnityBridge
from realtime.preview_cache import PreviewCache
from realtime.quota import Quota
from realtime.steps import Steps

_REDIS_TIMEOUT_S: Final = 0.5
_REDIS_CONNECTIONS: Final = 32

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class Backend:
    """Use it as an async context manager; sessions are given it, and must be over before it is.

    Args:
        settings: where everything is.
        authenticator: who users are; by default as `SLATE_JWT_SECRET` or `SLATE_JWT_JWKS_URL` say.
        build_poll_s: how often builds are asked for, seconds.
    """

    def __init__(
        self, settings: Settings, *, authenticator: Authenticator | None = None, build_poll_s: float = 5.0
    ) -> None:
        self.settings = settings
        self.authenticator = authenticator or authenticator_of(settings)
        self._build_poll_s = build_poll_s
        self._stack = AsyncExitStack()
        self._clients: dict[str, AsyncOpenAI] = {}

    async def __aenter__(self) -> Self:
        settings = self.settings
        async with AsyncExitStack() as stack:
            self.tracing = start_tracing(settings, "slate-session")
            stack.push_async_callback(self.tracing.aclose)
            directory, size = settings.spill_directory, settings.spill_max_bytes
            self.events = await stack.enter_async_context(
                await Outbox.open(settings, directory, max_bytes=size, tracing=self.tracing)
            )
            self.redis = redis_of(settings)
            if self.redis is not None:
                stack.push_async_callback(self.redis.aclose)
            self.quota = Quota(settings, self.redis)
            if settings.unity_mcp_url is None:
                raise ConfigurationError("no Unity MCP server: set UNITY_MCP_URL (http://127.0.0.1:8080/mcp)")
            self.unity = await stack.enter_async_context(UnityServer(settings.unity_mcp_url, settings.unity_mcp_token))
            self.frames: FrameStore = frame_store(settings.frame_store_url, settings.frames_token)
            stack.push_async_callback(self.frames.close)
            self._previews = PreviewCache(self.redis)
            self._breakers = Fallback("breakers")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.close()
        await self._stack.aclose()

    async def identify(self, token: str, user_id: str | None) -> Identity:
        """Who a token is of, and that it may begin sessions, for that user if one is named.

        Raises:
            NotAuthenticatedError, NotAllowedError: no.
        """
        identity = await self.authenticator.verify(token)
        identity.require(Permission.GENERATE)
        if user_id is not None and user_id.lower() != identity.user_id:
            identity.require(Permission.ADMIN)
            if not _UUID.fullmatch(user_id):
                raise NotAllowedError("a session is of a user by their UUID, such as a token's `sub`")
        return identity

    def openai(self, api_key: SecretStr | None) -> AsyncOpenAI:
        """The client for a key, that of the settings if none is given.

        Raises:
            ConfigurationError: there is none.
        """
        key = api_key or self.settings.openai_key
        if key is None:
            raise ConfigurationError("no key of OpenAI: set OPENAI_REALTIME_API_KEY")
        name = hashlib.sha256(key.get_secret_value().encode()).hexdigest()
        if name not in self._clients:
            self._clients[name] = AsyncOpenAI(
                api_key=key.get_secret_value(), websocket_base_url=self.settings.openai_url, max_retries=0
            )
        return self._clients[name]

    async def bridge(self, project: str | None, steps: Steps) -> UnityBridge:
        """A bridge to a project: the one named, that of the settings, or the only one that is open.

        Raises:
            ConfigurationError: none is named, and there is not exactly one.
        """
        instance = project or self.settings.unity_instance
        if instance is None:
            found = await self.unity.instances()
            if len(found) != 1:
                raise ConfigurationError(
                    f"{len(found)} Unity editors are open ({', '.join(found) or 'none'}): "
                    "name the project, or set SLATE_UNITY_INSTANCE (Name@hash)"
                )
            instance = found[0]
        loop = asyncio.get_running_loop()
        told: set[asyncio.Task[None]] = set()

        def changed(old: StateName, new: StateName) -> None:
            word = {"open": "opened", "half_open": "half_opened", "closed": "closed"}[new]
            task = loop.create_task(steps.runtime(f"circuit_breaker.{word}", instance=instance, before=old))
            told.add(task)
            task.add_done_callback(told.discard)

        breaker = Breaker(self.redis, f"unity:{instance}", on_change=changed, fallback=self._breakers)
        return UnityBridge(
            self.unity,
            instance,
            breaker=breaker,
            frames=self.frames,
            cache=self._previews,
            build_poll_s=self._build_poll_s,
            build_timeout_s=self.settings.build_timeout_s,
            tracing=self.tracing,
        )


def authenticator_of(settings: Settings) -> Authenticator:
    """Who verifies users' tokens, as the settings say.

    Raises:
        ConfigurationError: not exactly one of the two keys is set, or it is not usable.
    """
    if (settings.jwt_secret is None) == (settings.jwt_jwks_url is None):
        raise ConfigurationError(
            "users' tokens need one key: set SLATE_JWT_SECRET (`openssl rand -base64 48`) or SLATE_JWT_JWKS_URL"
        )
    return Authenticator(
        secret=settings.jwt_secret,
        jwks_url=settings.jwt_jwks_url,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )


def redis_of(settings: Settings) -> Redis | None:
    """A client with short time-outs for what is shared; None where no Redis is set."""
    if settings.redis_host is None:
        _log.warning("no Redis is set: limits and breakers are of this process only", remedy="set REDIS_HOST")
        return None
    # No retries: a script that is sent twice counts twice. A pool that waits: the usual one fails when it is used up.
    pool = BlockingConnectionPool(
        connection_class=SSLConnection if settings.redis_tls else Connection,
        max_connections=_REDIS_CONNECTIONS,
        timeout=_REDIS_TIMEOUT_S,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        **settings.redis_login(),
    )
    return Redis.from_pool(pool)
