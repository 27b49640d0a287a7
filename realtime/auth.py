"""Who speaks to us, and what they may: JSON Web Tokens (RFC 7519, with the advice of RFC 8725).

Either one secret shared with the issuer (HS256), or the issuer's public keys from a JWKS address (RSA, ECDSA, EdDSA);
never both, so that a public key cannot pass for a secret.
"""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import jwt
import structlog
from jwt.exceptions import InvalidSubjectError
from pydantic import SecretStr

from connectors.errors import ConfigurationError, ConnectionFailedError, SlateError

MAX_TOKEN: Final = 8192
"""Longest token, characters."""
KEYS_FRESH_S: Final = 300.0
"""Public keys are asked for again after this long."""
KEYS_USABLE_S: Final = 3600.0
"""While their server is away, public keys are used for this long."""
ASK_AGAIN_S: Final = 30.0
"""An unknown key, or a server that is away, makes us ask at most this often."""
_FIRST_KEYS_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
_MAX_KEYS_BYTES: Final = 1 << 20
_MIN_SECRET_BYTES: Final = 32
_PUBLIC: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_REASONS: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (InvalidSubjectError, "the token's subject is not a UUID"),
    (jwt.InvalidSignatureError, "the token's signature is wrong"),
    (jwt.InvalidAlgorithmError, "the token's signature is of a kind that is not accepted"),
    (jwt.InvalidKeyError, "the token's signature is by a key that is not strong enough"),
)

_log = structlog.get_logger(__name__)


class NotAuthenticatedError(SlateError):
    """A token proves nothing; the message says why, and never holds the token."""


class NotAllowedError(SlateError):
    """A user lacks a permission."""


class Permission(StrEnum):
    """What a user may do; ADMIN may do everything."""

    READ = "spark:read"
    GENERATE = "spark:generate"
    ADMIN = "spark:admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user whose token was right.

    Attributes:
        user_id: a UUID in its canonical form, lower case.
        permissions: as the token grants them.
        expires_at: end of the token, UTC, without leeway.
    """

    user_id: str
    permissions: frozenset[Permission]
    expires_at: datetime

    def allows(self, permission: Permission) -> bool:
        """Whether the user may do this."""
        return permission in self.permissions or Permission.ADMIN in self.permissions

    def require(self, permission: Permission) -> None:
        """Go on only if the user may do this.

        Raises:
            NotAllowedError: the user may not.
        """
        if not self.allows(permission):
            raise NotAllowedError(f"this needs the permission {permission}: ask for a token that grants it")


class Authenticator:
    """Verifies tokens.

    Args:
        secret: shared with the issuer, at least 32 bytes; or
        jwks_url: where the issuer publishes its keys, https:// except on this machine.
        issuer: the claim `iss` of every token.
        audience: must be in the claim `aud` of every token.
        leeway_s: by how many seconds the issuer's clock may differ from ours.
        clock: seconds, for the age of the keys.

    Raises:
        ConfigurationError: a setting is missing or not usable.
    """

    def __init__(
        self,
        *,
        secret: SecretStr | None,
        jwks_url: str | None,
        issuer: str,
        audience: str,
        leeway_s: float = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (secret is None) == (jwks_url is None):
            raise ConfigurationError("set one of SLATE_JWT_SECRET and SLATE_JWT_JWKS_URL, and not both")
        if not issuer or not audience:
            raise ConfigurationError("SLATE_JWT_ISSUER and SLATE_JWT_AUDIENCE must both be set")
        if secret is not None:
            _check_secret(secret.get_secret_value())
        self._secret = secret
        self._keys = _PublicKeys(jwks_url, clock) if jwks_url is not None else None
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s

    def __repr__(self) -> str:
        kind = "secret" if self._keys is None else "jwks"
        return f"Authenticator({kind}, issuer={self._issuer!r}, audience={self._audience!r})"

    async def verify(self, token: str) -> Identity:
        """Tell whose token it is.

        Raises:
            NotAuthenticatedError: it is malformed, forged, expired or meant for others.
            ConnectionFailedError: the server of the public keys is away, and without it nobody can know.
        """
        if len(token) > MAX_TOKEN:
            raise NotAuthenticatedError(f"the token is longer than {MAX_TOKEN} characters")
        if not token.isascii():
            raise NotAuthenticatedError("the token is malformed")
        try:
            identity = _identity(await self._claims(token))
        except jwt.PyJWTError as error:
            raise NotAuthenticatedError(_reason(error)) from None
        if not _is_canonical(token.rpartition(".")[2]):
            raise NotAuthenticatedError("the token is malformed")
        return identity

    async def _claims(self, token: str) -> dict[str, Any]:
        key: str | jwt.PyJWK
        if self._keys is not None:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in _PUBLIC:
                raise jwt.InvalidAlgorithmError
            if "kid" not in header:
                raise NotAuthenticatedError("the token does not name its key (kid)")
            key = await self._keys.get(header["kid"])
            algorithms = [key.algorithm_name]
        elif self._secret is not None:
            key, algorithms = self._secret.get_secret_value(), ["HS256"]
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_s,
            options={"require": ["exp", "sub", "iss", "aud"], "enforce_minimum_key_length": True},
        )


class _PublicKeys:
    """The issuer's keys (RFC 7517) by `kid`. One without `alg` is for RS256 or the algorithm of its curve."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        _check_url(url)
        self._url = url
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._asked = float("-inf")
        self._away = False
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> jwt.PyJWK:
        """Find a key, asking for it where that may help.

        Raises:
            NotAuthenticatedError: the issuer has no such key.
            ConnectionFailedError: the keys could not be fetched.
        """
        known = self._usable().get(kid)
        if known is None or self._clock() - self._fetched >= KEYS_FRESH_S:
            fetching = self._ask()
            if fetching is not None and (known is None or not self._away):
                await asyncio.shield(fetching)
            known = self._usable().get(kid)
        if known is not None:
            return known
        if self._away:
            raise ConnectionFailedError(
                "tokens cannot be verified: the server of SLATE_JWT_JWKS_URL gives no keys; try again in a moment"
            )
        raise NotAuthenticatedError("the token's signature is by a key that its issuer does not publish")

    def _usable(self) -> dict[str, jwt.PyJWK]:
        return self._keys if self._clock() - self._fetched < KEYS_USABLE_S else {}

    def _ask(self) -> asyncio.Task[None] | None:
        """The fetch that runs, a new one where it is time for one, else None."""
        if self._fetching is None or self._fetching.done():
            pause = ASK_AGAIN_S if self._usable() else _FIRST_KEYS_S
            if self._clock() - self._asked < pause:
                return None
            self._asked = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                keys = _parse(await _download(self._url))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError) as error:
            if not self._away:
                _log.warning("the public keys of tokens could not be fetched", error=type(error).__name__)
            self._away = True
            return
        if self._away:
            _log.info("the public keys of tokens can be fetched again")
        self._keys, self._fetched, self._away = keys, self._clock(), False


async def _download(url: str) -> bytes:
    body = bytearray()
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client, client.stream("GET", url) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > _MAX_KEYS_BYTES:
                raise ValueError("too long for a list of keys")
    return bytes(body)


def _parse(body: bytes) -> dict[str, jwt.PyJWK]:
    """The public keys for signatures of a JWK set; others, and what is no key, are left out.

    Raises:
        ValueError: it is no JWK set, or has no such key.
    """
    told = json.loads(body)
    listed = told.get("keys") if isinstance(told, dict) else None
    keys: dict[str, jwt.PyJWK] = {}
    for one in listed if isinstance(listed, list) else []:
        if not isinstance(one, dict) or not isinstance(one.get("kid"), str):
            continue
        if "d" in one or one.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(one)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name in _PUBLIC:
            keys.setdefault(one["kid"], key)
    if not keys:
        raise ValueError("no public key for signatures")
    return keys


def _is_canonical(signature: str) -> bool:
    """Whether it is written as RFC 7515 (2) says: PyJWT also takes padding, and other bits beyond the last byte."""
    written = base64.urlsafe_b64encode(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)))
    return written.rstrip(b"=").decode() == signature


def _identity(claims: dict[str, Any]) -> Identity:
    try:
        user_id = str(UUID(claims["sub"]))
    except ValueError:
        raise InvalidSubjectError from None
    if user_id != claims["sub"].lower():
        raise InvalidSubjectError
    end = claims["exp"]
    if not isinstance(end, int | float):
        raise jwt.DecodeError
    try:
        expires_at = datetime.fromtimestamp(end, UTC)
    except (ValueError, OverflowError, OSError):
        raise jwt.DecodeError from None
    return Identity(user_id, _permissions(claims), expires_at)


def _permissions(claims: dict[str, Any]) -> frozenset[Permission]:
    listed, scope = claims.get("permissions"), claims.get("scope")
    names = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    if isinstance(scope, str):
        names += scope.split(" ")
    return frozenset(one for one in Permission if one in names)


def _reason(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the token lacks the claim {error.claim}"
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "the token is malformed")


def _check_secret(secret: str) -> None:
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"SLATE_JWT_SECRET must have at least {_MIN_SECRET_BYTES} bytes (RFC 7518, 3.2): "
            "`openssl rand -base64 48` makes one"
        )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigurationError(
            "SLATE_JWT_SECRET is a key pair's half and no secret: give its address in SLATE_JWT_JWKS_URL instead"
        ) from None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigurationError("SLATE_JWT_JWKS_URL must be https://host/path")
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError("SLATE_JWT_JWKS_URL must be https:// except on this machine")
