"""Who may ask, how often, and with how much; and what every answer carries."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.breaker import CircuitOpenError
from connectors.errors import ConfigurationError, ConnectionFailedError, PublishError, SlateError
from connectors.limits import LimitExceededError, Window
from realtime.auth import Identity, NotAllowedError, NotAuthenticatedError, Permission
from realtime.connection import ConnectionLostError, RealtimeApiError
from realtime.queries import RefusedReadError
from realtime.quota import QuotaExceededError
from realtime.session import SessionError

MAX_BODY: Final = 256 << 10
"""Largest body of a request, bytes: an input of 32,000 characters fits however it is written."""
_ATTEMPTS: Final = Window("attempts", 60, 60.0)
"""Tokens that are not good, by address."""
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "font-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_bearer = HTTPBearer(auto_error=False, description="A user's token (JWT)")


class NotFoundError(SlateError):
    """There is no such thing, or it is another user's: nobody is told which."""


async def identify(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Identity:
    """Who asks, if they may ask now."""
    state = request.app.state
    if credentials is None:
        raise NotAuthenticatedError("a token is needed: Authorization: Bearer ...")
    try:
        identity: Identity = await state.authenticator.verify(credentials.credentials)
    except NotAuthenticatedError:
        address = request.client.host if request.client else "unknown"
        await state.limiter.acquire([(address, _ATTEMPTS)])
        raise
    identity.require(Permission.READ)
    if state.settings.api_limit:
        await state.limiter.acquire([(identity.user_id, Window("requests", state.settings.api_limit, 60.0))])
    return identity


def token_of(request: Request) -> str:
    """The token that `identify` has verified."""
    return request.headers["authorization"].partition(" ")[2].strip()


User = Annotated[Identity, Depends(identify)]


async def admin(identity: User) -> Identity:
    """An admin."""
    identity.require(Permission.ADMIN)
    return identity


def whose(identity: Identity) -> str | None:
    """Whose rows someone may see: their own, and an admin everybody's (None)."""
    return None if identity.allows(Permission.ADMIN) else identity.user_id


_STATUS: Final[tuple[tuple[type[SlateError], int], ...]] = (
    (NotAuthenticatedError, 401),
    (NotAllowedError, 403),
    (NotFoundError, 404),
    (RefusedReadError, 422),
    (LimitExceededError, 429),
    (QuotaExceededError, 429),
    (SessionError, 409),
    (RealtimeApiError, 502),
    (ConnectionLostError, 502),
    (CircuitOpenError, 503),
    (ConnectionFailedError, 503),
    (PublishError, 503),
    (ConfigurationError, 503),
)
ERRORS: Final[dict[int, dict[str, Any]]] = {
    status: {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for status, text in (
        (400, "The request is no HTTP that can be understood"),
        (401, "No token, or one that is not good"),
        (403, "The token does not allow it"),
        (404, "There is no such thing that the user may see"),
        (409, "The session is not in a state for it"),
        (413, "The body is too large"),
        (422, "A parameter is not usable"),
        (429, "Too much: come back after Retry-After seconds"),
        (502, "OpenAI refuses, or cannot be reached"),
        (503, "A server that is needed is away"),
    )
}


def error(status: int, text: str, **headers: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": text}, status, headers=headers)


def handle_errors(app: FastAPI) -> None:
    """Make answers of errors; those of other kinds are faults of ours, and 500."""

    async def slate(_: Request, raised: Exception) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(raised, kind)), 500)
        headers = {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if isinstance(raised, LimitExceededError | QuotaExceededError | CircuitOpenError):
            headers["retry-after"] = str(max(1, round(raised.retry_after_s + 0.5)))
        return error(status, str(raised), **headers)

    async def unusable(_: Request, raised: Exception) -> JSONResponse:
        found = raised.errors() if isinstance(raised, RequestValidationError) else []
        return error(422, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:10]))

    async def http(request: Request, raised: Exception) -> JSONResponse:
        assert isinstance(raised, HTTPException)  # noqa: S101 - registered for it
        headers = dict(raised.headers or {})
        if raised.status_code == 405:  # of several routes with this path the framework names one's methods
            headers = {"allow": ", ".join(sorted(_methods(app, request.url.path)))}
        return error(raised.status_code, str(raised.detail), **headers)

    app.add_exception_handler(SlateError, slate)
    app.add_exception_handler(RequestValidationError, unusable)
    app.add_exception_handler(HTTPException, http)


def _methods(app: FastAPI, path: str) -> set[str]:
    return {
        method
        for route in app.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
        if method != "HEAD"
    }


class Guard:
    """ASGI middleware: a limit for bodies, and the headers of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY:
            await error(413, f"a body has at most {MAX_BODY} bytes")(scope, receive, _with_headers(send))
            return
        await self._app(scope, _limited(receive), _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in names]
            if b"cache-control" not in names:
                more.append((b"cache-control", b"no-store"))
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return sending


def _limited(receive: Receive) -> Callable[[], Awaitable[Message]]:
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY:  # sent in chunks, without a length: hear no more of it
            return {"type": "http.disconnect"}
        return message

    return receiving


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the document says of an endpoint's errors, beside those that all have."""
    return {one: ERRORS[one] for one in (401, 403, 422, 429, 503, *statuses)}
