"""Puts the HTTP service together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from connectors.frames import FileFrames, frame_store
from connectors.health import LIVE, READY, Report
from connectors.jetstream import connect
from connectors.limits import Limiter
from connectors.read_cache import ReadCache
from connectors.reads import Reader
from connectors.settings import Settings
from realtime.api import reads, sessions
from realtime.api.guard import Guard, handle_errors
from realtime.api.live import LiveSessions
from realtime.api.nats_callout import NatsCallout, hearing
from realtime.api.streams import Streams
from realtime.auth import Authenticator
from realtime.backend import Backend, authenticator_of, redis_of

_HERE: Final = Path(__file__).parent
VENDOR: Final = {
    "uplot": _HERE / "node_modules" / "uplot" / "dist",
    "highlight": _HERE / "node_modules" / "@highlightjs" / "cdn-assets" / "es",
}
"""Packages of npm that the page uses, and where they are once `npm ci` has brought them."""

_log = structlog.get_logger(__name__)


def create_app(settings: Settings, *, authenticator: Authenticator | None = None) -> FastAPI:
    """The service for these settings.

    Raises:
        ConfigurationError: there is no key for users' tokens, or half of what the callout of NATS needs.
    """
    checked = authenticator or authenticator_of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            state = app.state
            state.settings, state.authenticator = settings, checked
            redis = redis_of(settings)
            if redis is not None:
                stack.push_async_callback(redis.aclose)
            state.redis = redis
            state.limiter = Limiter(redis)
            state.cache = ReadCache(redis)
            state.streams = Streams()
            frames = frame_store(settings.frame_store_url)
            state.frames = frames.directory if isinstance(frames, FileFrames) else None
            state.reader = await stack.enter_async_context(Reader(settings, max_lag_s=settings.replica_max_lag_s))
            state.nats = await connect(settings, "slate-api", wait=True) if settings.nats_url is not None else None
            if state.nats is not None:
                stack.push_async_callback(state.nats.close)
            state.live = None
            if settings.openai_key is not None and settings.unity_mcp_url is not None:
                backend = await stack.enter_async_context(Backend(settings, authenticator=checked))
                state.live = LiveSessions(backend)
                stack.push_async_callback(state.live.close)
            if state.callout is not None:
                await stack.enter_async_context(state.callout)
            yield

    app = FastAPI(
        title="SPARK on SLATE",
        version="1",
        description="What SPARK did, and sessions for browsers. Times are RFC 3339 in UTC, money US dollars.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.callout = None
    if settings.nats_callout_url is not None or settings.nats_callout_seed is not None:
        app.state.callout = NatsCallout(settings, checked, hearing(app.state))
    handle_errors(app)
    app.add_middleware(Guard)
    origins = [one.strip() for one in (settings.api_origins or "").split(",") if one.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "last-event-id"],
            expose_headers=["retry-after"],
            max_age=600,
        )
    app.include_router(sessions.router)
    app.include_router(reads.router)
    _add_page(app)
    app.add_api_route("/health", _health, methods=["GET"], tags=["service"], response_class=JSONResponse)
    app.add_api_route(READY, _health, methods=["GET"], include_in_schema=False, response_class=JSONResponse)
    app.add_api_route(LIVE, _live, methods=["GET"], include_in_schema=False)
    app.add_api_route("/metrics", _metrics, methods=["GET"], include_in_schema=False)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    for name, directory in VENDOR.items():
        app.mount(f"/vendor/{name}", StaticFiles(directory=directory, check_dir=False), name=name)

    async def page() -> FileResponse:
        return FileResponse(_HERE / "static" / "index.html")

    async def icon() -> FileResponse:
        """Browsers ask for it by this name where what they show names none: a document, JSON."""
        return FileResponse(_HERE / "static" / "icon.svg")

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/favicon.ico", icon, methods=["GET"], include_in_schema=False)


async def _health(request: Request) -> JSONResponse:
    """Which servers answer, and how far the replica is behind, seconds; 503 if nothing can be read."""
    state = request.app.state
    health: dict[str, Any] = await state.reader.health()
    redis = None
    if state.redis is not None:
        try:
            redis = bool(await state.redis.ping())
        except RedisError:
            redis = False
    told = {
        "primary": health["primary"],
        "replica": health["replica"],
        "replicaLagSeconds": health["replica_lag_s"],
        "nats": state.nats.is_connected if state.nats is not None else None,
        "redis": redis,
        "sessions": state.live is not None,
    }
    return JSONResponse(told, 200 if told["primary"] or told["replica"] else 503)


async def _live() -> dict[str, Any]:
    return Report(True, [])._asdict()  # it answers, so it does not hang


async def _metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {}).setdefault("schemas", {})
        error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
        components.update({**reads.schemas(), "Error": error})
        app.openapi_schema = document
    return app.openapi_schema
