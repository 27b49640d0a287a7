"""Sessions for a browser: begin one, say something, hear what happens, end it."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from connectors.errors import ConfigurationError
from realtime.api.guard import User, errors, token_of
from realtime.api.live import LiveSessions
from realtime.api.streams import told
from realtime.auth import Permission
from realtime.modes import DEFAULT_MODEL, Mode
from realtime.session import MAX_INPUT

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,255}$", description="Id of a session")]
LastEventId = Annotated[str | None, Header(pattern=r"^[0-9]{1,15}$", description="Hear what came after it")]
_LIVE = errors(404)
_SPOKEN = errors(400, 404, 409, 413, 502)


class NewSession(BaseModel):
    """What a session is to be like."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")] = DEFAULT_MODEL
    mode: Mode | None = None
    project: Annotated[str, Field(pattern=r"^[^@\s]{1,200}@[0-9A-Za-z]{1,64}$")] | None = None


class Begun(BaseModel):
    """A session that has begun."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    session_id: str
    model: str
    mode: Mode


class NewInput(BaseModel):
    """What the user says."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=MAX_INPUT)]


def _live(request: Request) -> LiveSessions:
    live: LiveSessions | None = request.app.state.live
    if live is None:
        raise ConfigurationError(
            "no sessions can be held here: OPENAI_REALTIME_API_KEY and UNITY_MCP_URL are not set for this service"
        )
    return live


@router.post("", status_code=201, response_model=Begun, responses=_SPOKEN)
async def begin_session(request: Request, identity: User, wish: NewSession) -> Begun:
    """Begin a session of the token's user. It lives in this process; an idle one ends after 15 minutes."""
    identity.require(Permission.GENERATE)
    session = await _live(request).start(token_of(request), model=wish.model, mode=wish.mode, project=wish.project)
    return Begun(session_id=session.session_id, model=session.model, mode=session.mode)


@router.post("/{session_id}/inputs", status_code=202, response_class=Response, responses=_SPOKEN)
async def say(request: Request, identity: User, session_id: SessionId, spoken: NewInput) -> Response:
    """Say something in a live session; a turn that is under way is interrupted."""
    identity.require(Permission.GENERATE)
    live = _live(request).of(identity, session_id)
    if identity.user_id == live.user_id:
        live.session.renew_token(token_of(request))
    await live.session.send_user_input(spoken.text)
    return Response(status_code=202)


@router.post("/{session_id}/cancel", status_code=202, response_class=Response, responses=_LIVE)
async def cancel(request: Request, identity: User, session_id: SessionId) -> Response:
    """Interrupt the turn that is under way, if one is."""
    identity.require(Permission.GENERATE)
    await _live(request).of(identity, session_id).session.cancel()
    return Response(status_code=202)


@router.delete("/{session_id}", status_code=204, response_class=Response, responses=_LIVE)
async def end_session(request: Request, identity: User, session_id: SessionId) -> Response:
    """End a live session."""
    identity.require(Permission.GENERATE)
    live = _live(request)
    live.of(identity, session_id)
    await live.end(session_id)
    return Response(status_code=204)


@router.get(
    "/{session_id}/live",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events named `happening`"}, **_LIVE},
)
async def hear(
    request: Request,
    identity: User,
    session_id: SessionId,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^[0-9]{1,15}$", description="Hear what came after it")
    ] = None,
) -> StreamingResponse:
    """Hear what happens in a live session: text, calls, results."""
    live = _live(request).of(identity, session_id)
    answer: StreamingResponse = request.app.state.streams.answer(
        request, identity.user_id, told(live.listen(int(last_event_id or 0)))
    )
    return answer
