"""A session in a terminal: type, watch the calls, see what comes of it."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import uuid4

import jwt
import typer
from pydantic import SecretStr

from connectors import logs
from connectors.errors import ConfigurationError
from connectors.settings import Settings
from realtime.auth import Authenticator
from realtime.modes import DEFAULT_MODEL, MODES, Mode

_TOKEN_S: Final = 24 * 3600


ModelOption = Annotated[str, typer.Option(help="Model of OpenAI.")]
ModeOption = Annotated[str, typer.Option(help="creative, deterministic or hybrid; SPARK_SONNET_MODE without it.")]
ProjectOption = Annotated[
    str, typer.Option(help="Unity project, Name@hash; SLATE_UNITY_INSTANCE or the only one that is open without it.")
]
UserOption = Annotated[str, typer.Option(help="User (UUID) of the session; a new one without it.")]
SayOption = Annotated[list[str] | None, typer.Option(help="Say this and end; may be repeated.")]


def session(
    model: ModelOption = DEFAULT_MODEL,
    mode: ModeOption = "",
    project: ProjectOption = "",
    user: UserOption = "",
    say: SayOption = None,
) -> None:
    """Talk with the model, which works in a Unity editor; each step is published as an event.

    Needs OPENAI_REALTIME_API_KEY, UNITY_MCP_URL and NATS_URL. Ctrl-C cancels what is under way, and ends the session
    when nothing is. With --demo it is `slate session --demo`.
    """
    talk(Settings.load(), model=model, mode=mode, project=project, user=user, say=say)


def talk(settings: Settings, *, model: str, mode: str, project: str, user: str, say: list[str] | None) -> None:
    """Hold a session until its user wants no more.

    Raises:
        SlateError: it cannot begin.
    """
    if mode and mode not in MODES:
        raise typer.BadParameter(f"must be one of {', '.join(MODES)}", param_hint="--mode")
    logs.configure(settings.model_copy(update={"log_level": "error"}) if settings.log_level == "info" else settings)
    chosen: Mode | None = next((one for one in MODES if one == mode), None)
    from realtime.console import hold  # noqa: PLC0415 - it takes half a second, which other commands need not wait

    asyncio.run(hold(settings, user or str(uuid4()), model, chosen, project or None, say))


def local_authority(settings: Settings) -> tuple[Authenticator | None, SecretStr]:
    """Who makes the tokens of sessions on this machine: the secret of the settings, else one of this process.

    Raises:
        ConfigurationError: only another issuer can make them.
    """
    if settings.jwt_jwks_url is not None:
        raise ConfigurationError("tokens are made by the issuer of SLATE_JWT_JWKS_URL: unset it for a local session")
    if settings.jwt_secret is not None:
        return None, settings.jwt_secret
    secret = SecretStr(secrets.token_urlsafe(48))
    return Authenticator(
        secret=secret, jwks_url=None, issuer=settings.jwt_issuer, audience=settings.jwt_audience
    ), secret


def token_of(settings: Settings, secret: SecretStr, user: str, permissions: Sequence[str] = ("spark:generate",)) -> str:
    """A token of a user, good for a day."""
    now = int(time.time())
    claims = {"sub": user, "iss": settings.jwt_issuer, "aud": settings.jwt_audience, "iat": now, "exp": now + _TOKEN_S}
    return jwt.encode({**claims, "permissions": list(permissions)}, secret.get_secret_value(), algorithm="HS256")
