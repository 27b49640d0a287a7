"""The reads over HTTP: whose rows, which part, and for how long an answer may be kept."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BeforeValidator

from realtime import queries
from realtime import query_rows as rows
from realtime.api.guard import NotFoundError, User, admin, errors, whose
from realtime.api.streams import changes
from realtime.auth import Identity, Permission

FIGURES_S: Final = 1.0
LISTS_S: Final = 2.0
SCRIPT_S: Final = 60.0
"""How long answers are kept, seconds; a script never changes."""
MINUTES: Final = 30

router = APIRouter(prefix="/v1", tags=["reads"])

SessionId = Annotated[str, Path(pattern=r"^[^\s/\x00-\x1f]{1,255}$", description="Id of a session")]
OfSession = Annotated[str | None, Query(alias="session", min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=queries.MOST, description="Rows")]


def _like(pattern: str, example: str) -> BeforeValidator:
    """Only texts of a form: a number would be taken for seconds since 1970."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.match(pattern, value):
            raise ValueError(f"must be like {example}")
        return value

    return BeforeValidator(check)


Day = Annotated[date | None, _like(r"\d{4}-\d\d-\d\d$", "2026-03-01"), Query(description="Day (UTC)")]
Time = Annotated[
    datetime | None,
    _like(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", "2026-03-01T12:00:00Z"),
    Query(description="Time with a zone"),
]
Admin = Annotated[Identity, Depends(admin)]

Load = Callable[[], Awaitable[object]]
T = TypeVar("T")


def documented(model: Any, *more: int) -> dict[int | str, dict[str, Any]]:
    """What the document says of an endpoint: the model of its answer, and its errors."""
    _MODELS.append(model)
    schema = _numbers(msgspec.json.schema_components([model], ref_template=_REF)[0][0])
    return {200: {"description": "As asked", "content": {"application/json": {"schema": schema}}}, **errors(*more)}


_REF: Final = "#/components/schemas/{name}"
_MODELS: Final[list[Any]] = []


def schemas() -> dict[str, Any]:
    """The models of all answers, for the document's components."""
    return dict(_numbers(msgspec.json.schema_components(_MODELS, ref_template=_REF)[1]))


def _numbers(schema: Any) -> Any:
    """A schema whose decimals are numbers, as `queries.encode` writes them."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":
            return {"type": "number"}
        return {name: _numbers(value) for name, value in schema.items()}
    return [_numbers(one) for one in schema] if isinstance(schema, list) else schema


class Items(msgspec.Struct, Generic[T]):
    """A list that has no pages."""

    items: list[T]


async def _answer(request: Request, ttl_s: float, key: tuple[object, ...], load: Load) -> Response:
    return Response(await kept(request.app.state, ttl_s, key, load), media_type="application/json")


async def kept(state: Any, ttl_s: float, key: tuple[object, ...], load: Load) -> bytes:
    """JSON of a read, of the cache where it is there. The key has all that the answer depends on."""

    async def encoded() -> bytes:
        return queries.encode(await load())

    body: bytes = await state.cache.get(queries.encode(key).decode(), ttl_s, encoded)
    return body


def _user(identity: Identity) -> UUID | None:
    user = whose(identity)
    return UUID(user) if user is not None else None


async def _listed(read: Awaitable[list[T]]) -> Items[T]:
    return Items(await read)


def _days(since: date | None, until: date | None) -> tuple[date, date]:
    """A week up to today, up to a day, or from a day on, where no more is told."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with suppress(OverflowError):
        if since is None:
            until = until or tomorrow
            return until - timedelta(days=7), until
        return since, until or min(max(tomorrow, since + timedelta(days=1)), since + timedelta(days=queries.MOST_DAYS))
    raise queries.RefusedReadError("there are no such days")


@router.get("/me", responses=errors())
async def me(request: Request, identity: User) -> dict[str, Any]:
    """Whose token it is, and what it allows."""
    can_begin = request.app.state.live is not None and identity.allows(Permission.GENERATE)
    return {"userId": identity.user_id, "permissions": sorted(identity.permissions), "canBegin": can_begin}


@router.get("/figures", response_class=Response, responses=documented(rows.Figures))
async def figures(request: Request, identity: User) -> Response:
    """Figures of today (UTC), of the user's sessions; an admin's are of all."""
    user = _user(identity)
    return await _answer(request, FIGURES_S, ("figures", user), lambda: _figures(request.app.state, user))


@router.get(
    "/figures/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events named `figures`"}, **errors()},
)
async def figures_stream(request: Request, identity: User) -> StreamingResponse:
    """The same, the last half hour by minute and alerts, whenever they change."""
    user, state = _user(identity), request.app.state

    async def load() -> bytes:
        async def all_of_it() -> object:
            return {
                "figures": await _figures(state, user),
                "minutes": [] if user else await _minutes(state),
                "alerts": await queries.alerts(state.reader, user),
            }

        return await kept(state, FIGURES_S, ("figures_stream", user), all_of_it)

    answer: StreamingResponse = state.streams.answer(request, identity.user_id, changes(load, "figures"))
    return answer


@router.get("/minutes", response_class=Response, responses=documented(Items[rows.Minute]))
async def minutes(request: Request, _: Admin) -> Response:
    """The last half hour by minute, of all."""
    return await _answer(request, FIGURES_S, ("minutes",), lambda: _listed(_minutes(request.app.state)))


async def _figures(state: Any, user: UUID | None) -> rows.Figures:
    return await queries.figures(state.reader, user, now=datetime.now(UTC), stream=state.settings.stream)


async def _minutes(state: Any) -> list[rows.Minute]:
    return await queries.minutes(state.reader, now=datetime.now(UTC), minutes=MINUTES)


@router.get("/sessions", response_class=Response, responses=documented(rows.Page[rows.Session]))
async def sessions(
    request: Request, identity: User, active: bool = False, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Sessions, the latest first."""
    user = _user(identity)
    return await _answer(
        request,
        LISTS_S,
        ("sessions", user, active, cursor, limit),
        lambda: queries.sessions(_reader(request), user, active=active, cursor=cursor, limit=limit),
    )


@router.get("/sessions/{session_id}", response_class=Response, responses=documented(rows.SessionTotals, 404))
async def session(request: Request, identity: User, session_id: SessionId) -> Response:
    """A session, and what it comes to."""
    return Response(await _session(request, identity, session_id), media_type="application/json")


async def _session(request: Request, identity: Identity, session_id: str) -> bytes:
    user = _user(identity)
    body = await kept(
        request.app.state,
        FIGURES_S,
        ("session", user, session_id),
        lambda: queries.session(_reader(request), user, session_id),
    )
    if body == b"null":
        raise NotFoundError(f"there is no session {session_id[:60]!r}")
    return body


@router.get(
    "/sessions/{session_id}/timeline", response_class=Response, responses=documented(rows.Page[rows.Moment], 404)
)
async def timeline(
    request: Request, identity: User, session_id: SessionId, cursor: Cursor = None, limit: Limit = queries.MOST
) -> Response:
    """What happened in a session, the earliest first."""
    await _session(request, identity, session_id)
    user = _user(identity)
    return await _answer(
        request,
        FIGURES_S,
        ("timeline", user, session_id, cursor, limit),
        lambda: queries.timeline(_reader(request), user, session_id, cursor=cursor, limit=limit),
    )


@router.get(
    "/sessions/{session_id}/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events named `session`"}, **errors(404)},
)
async def session_stream(request: Request, identity: User, session_id: SessionId) -> StreamingResponse:
    """A session whenever anything of it has changed: then ask for its timeline again."""
    await _session(request, identity, session_id)
    answer: StreamingResponse = request.app.state.streams.answer(
        request, identity.user_id, changes(lambda: _session(request, identity, session_id), "session")
    )
    return answer


@router.get("/calls", response_class=Response, responses=documented(rows.Page[rows.FunctionCall]))
async def calls(
    request: Request,
    identity: User,
    session_id: OfSession = None,
    name: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] = None,
    status: Literal["success", "failed"] | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Function calls, the latest first."""
    user = _user(identity)
    return await _answer(
        request,
        LISTS_S,
        ("calls", user, session_id, name, status, cursor, limit),
        lambda: queries.function_calls(
            _reader(request), user, session_id=session_id, name=name, status=status, cursor=cursor, limit=limit
        ),
    )


@router.get("/scripts", response_class=Response, responses=documented(rows.Page[rows.Script]))
async def scripts(
    request: Request, identity: User, session_id: OfSession = None, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Scripts without their content, the latest first."""
    return await _listing(request, identity, "scripts", queries.scripts, session_id, cursor, limit)


@router.get("/scripts/{script_id}", response_class=Response, responses=documented(rows.WholeScript, 404))
async def script(request: Request, identity: User, script_id: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Response:
    """A script with its content."""
    user = _user(identity)
    body = await kept(
        request.app.state,
        SCRIPT_S,
        ("script", user, script_id),
        lambda: queries.script(_reader(request), user, script_id),
    )
    if body == b"null":
        raise NotFoundError(f"there is no script {script_id}")
    return Response(body, media_type="application/json")


@router.get("/previews", response_class=Response, responses=documented(rows.Page[rows.Preview]))
async def previews(
    request: Request, identity: User, session_id: OfSession = None, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Steps of previews, the latest first."""
    return await _listing(request, identity, "previews", queries.previews, session_id, cursor, limit)


@router.get("/builds", response_class=Response, responses=documented(rows.Page[rows.Build]))
async def builds(
    request: Request, identity: User, session_id: OfSession = None, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Build jobs, the latest first."""
    return await _listing(request, identity, "builds", queries.builds, session_id, cursor, limit)


@router.get("/usage", response_class=Response, responses=documented(Items[rows.Usage]))
async def usage(
    request: Request,
    identity: User,
    since: Day = None,
    until: Day = None,
    by: Annotated[list[queries.By] | None, Query(description="What it is told apart by; day and model")] = None,
) -> Response:
    """Tokens and cost of days, a week without `since`; `until` is the day after the last."""
    user, (first, last) = _user(identity), _days(since, until)
    groups = tuple(sorted(set(by or ("day", "model"))))
    return await _answer(
        request,
        LISTS_S,
        ("usage", user, first, last, *groups),
        lambda: _listed(queries.usage(_reader(request), user, since=first, until=last, by=groups)),
    )


@router.get("/errors", response_class=Response, responses=documented(Items[rows.ErrorRate]))
async def error_rates(request: Request, identity: User, since: Day = None, until: Day = None) -> Response:
    """Outcomes of calls by day and function, a week without `since`; `until` is the day after the last."""
    user, (first, last) = _user(identity), _days(since, until)
    return await _answer(
        request,
        LISTS_S,
        ("errors", user, first, last),
        lambda: _listed(queries.error_rates(_reader(request), user, since=first, until=last)),
    )


@router.get("/windows", response_class=Response, responses=documented(Items[rows.Window]))
async def windows(
    request: Request,
    _: Admin,
    signal: rows.Signal = "calls",
    since: Time = None,
    until: Time = None,
    seconds: Literal["60", "300"] = "60",
) -> Response:
    """Windows of a signal, of all: of the hour before `until` without `since`, and up to now without `until`."""
    length: Literal[60, 300] = 60 if seconds == "60" else 300
    try:
        last = until or datetime.now(UTC).replace(microsecond=0)
        first = since or last - timedelta(hours=1)
    except OverflowError:
        raise queries.RefusedReadError("there are no such times") from None
    return await _answer(
        request,
        LISTS_S,
        ("windows", signal, first, last, seconds),
        lambda: _listed(queries.windows(_reader(request), signal=signal, since=first, until=last, seconds=length)),
    )


@router.get("/alerts", response_class=Response, responses=documented(Items[rows.Alert]))
async def alerts(request: Request, identity: User) -> Response:
    """Alerts that fire or are about to, the gravest first."""
    user = _user(identity)
    return await _answer(request, FIGURES_S, ("alerts", user), lambda: _listed(queries.alerts(_reader(request), user)))


@router.get("/alerts/history", response_class=Response, responses=documented(rows.Page[rows.AlertChange]))
async def alert_history(request: Request, identity: User, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Alerts that began and ended, the latest first."""
    user = _user(identity)
    return await _answer(
        request,
        LISTS_S,
        ("alert_history", user, cursor, limit),
        lambda: queries.alert_history(_reader(request), user, cursor=cursor, limit=limit),
    )


@router.get("/dead-letters", response_class=Response, responses=documented(rows.Page[rows.DeadLetter]))
async def dead_letters(
    request: Request, _: Admin, waiting: bool = True, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Dead letters without their bodies, the latest first."""
    return await _answer(
        request,
        LISTS_S,
        ("dead_letters", waiting, cursor, limit),
        lambda: queries.dead_letters(_reader(request), waiting=waiting, cursor=cursor, limit=limit),
    )


@router.get("/dead-letters/counts", response_class=Response, responses=documented(Items[rows.DeadLetterCount]))
async def dead_letter_counts(request: Request, _: Admin) -> Response:
    """How many wait for a replay, by stage and kind of fault."""
    return await _answer(
        request, LISTS_S, ("dead_letter_counts",), lambda: _listed(queries.dead_letter_counts(_reader(request)))
    )


@router.get(
    "/frames/{folder}/{name}",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}, "description": "The picture"}, **errors(404)},
)
async def frame(
    request: Request,
    _: User,
    folder: Annotated[str, Path(pattern=r"^[0-9a-f]{2}$")],
    name: Annotated[str, Path(pattern=r"^[0-9a-f]{32}\.png$")],
) -> FileResponse:
    """A preview's picture by its reference, where previews are kept in a directory. Its name is its hash."""
    directory = request.app.state.frames
    if directory is None or not (directory / folder / name).is_file():
        raise NotFoundError("there is no such picture here")
    return FileResponse(directory / folder / name, headers={"cache-control": "private, max-age=86400, immutable"})


async def _listing(
    request: Request,
    identity: Identity,
    name: str,
    read: Callable[..., Awaitable[object]],
    session_id: str | None,
    cursor: str | None,
    limit: int,
) -> Response:
    """A page of what belongs to sessions."""
    user = _user(identity)
    return await _answer(
        request,
        LISTS_S,
        (name, user, session_id, cursor, limit),
        lambda: read(_reader(request), user, session_id=session_id, cursor=cursor, limit=limit),
    )


def _reader(request: Request) -> Any:
    return request.app.state.reader
