"""Tokens: none but one that the issuer signed is accepted, and whatever is refused is refused in words.

The first byte chooses what the rest is: a token as it is, a change to a good one, or claims that the issuer signs.
"""

import base64
import hmac
import json
from functools import cache
from random import Random
from string import ascii_letters, digits
from typing import Final

from realtime.auth import MAX_TOKEN, Authenticator, Identity, NotAuthenticatedError
from tests.fuzz.target import Target, finish, in_time
from tests.support.tokens import SECRET, by_secret, claims, signed

_HEADER: Final = b'{"alg":"HS256","typ":"JWT"}'
_ALPHABET: Final = f"{ascii_letters}{digits}-_=.+/".encode()
_FAR: Final = 4_102_444_800  # 2100


@cache
def _good() -> str:
    return signed(exp=_FAR, iat=1, permissions=["spark:read"])


@cache
def _authenticator() -> Authenticator:
    return by_secret()


def check(data: bytes) -> None:
    """The good token is accepted as it is only, and the claims of any other are looked at."""
    kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
    if kind == 0:
        token = rest.decode("utf-8", "replace")
    elif kind == 1:
        token = _changed(_good(), rest)
    else:
        _verify(_signed(rest))
        return
    identity = _verify(token)
    assert identity is None or token == _good(), "a forged token is accepted"


def _verify(token: str) -> Identity | None:
    try:
        with in_time():
            return finish(_authenticator().verify(token))
    except NotAuthenticatedError:
        return None


def _changed(token: str, changes: bytes) -> str:
    """The token with characters put in, replaced or taken out, as triples of bytes say."""
    for what, place, code in zip(changes[::3], changes[1::3], changes[2::3], strict=False):
        at = (place | (what >> 2) << 8) % (len(token) + 1)
        token = token[:at] + (chr(code) if what % 4 else "") + token[at + (what % 4 != 1) :]
    return token


def _signed(payload: bytes) -> str:
    """A token of any bytes, with the issuer's own signature: what PyJWT would not write."""
    header, _, body = payload.rpartition(b"\x1f")
    told = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header or _HEADER, body))
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), told, "sha256")).rstrip(b"=")
    return (told + b"." + signature).decode()[: MAX_TOKEN + 1]


def seeds() -> list[bytes]:
    """A good token, small changes to it, and claims."""
    told = json.dumps(claims(exp=_FAR, iat=1)).encode()
    algorithms = [
        b'{"alg":"none"}\x1f',
        b'{"alg":"HS512"}\x1f',
        b'{"alg":"RS256","kid":"k"}\x1f',
        b'{"b64":false,"crit":["b64"]}\x1f',
    ]
    changes = [bytes((what, place, ord("A"))) for what in range(12) for place in (0, 40, 200, 255)]
    return [
        b"\0" + _good().encode(),
        *(b"\1" + change for change in changes),
        *(b"\2" + one + told for one in [b"", *algorithms]),
    ]


def words() -> list[bytes]:
    """Pieces of tokens and claims."""
    pieces = [
        ".",
        "=",
        "-",
        "_",
        '"exp":',
        "1e400",
        "9" * 400,
        '"sub":',
        '"aud":',
        "[" * 500,
        '"nbf":',
        '"iss":null',
        "spark:admin",
    ]
    return [b"\x1f", _good().encode(), *(piece.encode() for piece in pieces)]


def mutate(data: bytes, random: Random) -> bytes:
    """A good token with one character more, less, or other, of those that tokens are made of."""
    place = random.randrange(len(_good()) + 1)
    return bytes((1, random.randrange(4) | place >> 8 << 2, place & 255, random.choice(_ALPHABET)))


TARGET: Final = Target("token", check, seeds, words, mutate)
