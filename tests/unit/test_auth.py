"""A token that is forged, old or meant for others proves nothing; a right one says who speaks and what they may."""

import time
import traceback
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from connectors.errors import ConfigurationError
from realtime.auth import Authenticator, Identity, NotAllowedError, NotAuthenticatedError, Permission
from tests.support.tokens import (
    AUDIENCE,
    HS256,
    ISSUER,
    PEM,
    SECRET,
    USER,
    b64,
    by_secret,
    claims,
    hmac_of,
    made,
    refusal,
    signed,
    verified,
)


def test_a_right_token_says_who_speaks_until_when() -> None:
    end = int(time.time()) + 600
    identity = verified(signed(exp=end, sub=USER.upper(), aud=["other", AUDIENCE], scope="spark:read"))
    assert identity == Identity(USER, frozenset({Permission.READ}), datetime.fromtimestamp(end, UTC))


def test_a_signature_by_another_secret_is_refused() -> None:
    assert refusal(signed("another secret, that is also long enough")) == "the token's signature is wrong"


def test_another_payload_under_the_same_signature_is_refused() -> None:
    header, _, signature = signed().split(".")
    assert refusal(f"{header}.{b64(claims(scope='spark:admin'))}.{signature}") == "the token's signature is wrong"


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", None, ["HS256"], {"HS256": 1}, 1])
def test_a_token_without_a_signature_is_refused(alg: object) -> None:
    for signature in ("", b64(hmac_of("", SECRET.encode()))):
        token = f"{b64({'alg': alg})}.{b64(claims())}.{signature}"
        assert refusal(token) == "the token's signature is of a kind that is not accepted"


def test_other_algorithms_with_the_right_secret_are_refused() -> None:
    for algorithm in ("HS384", "HS512"):
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            token = signed(algorithm=algorithm)
        assert "of a kind that is not accepted" in refusal(token)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"exp": int(time.time()) - 600}, "the token has expired"),
        ({"exp": int(time.time()) - 40}, "the token has expired"),
        ({"nbf": int(time.time()) + 6000}, "the token is not valid yet"),
        ({"iat": int(time.time()) + 6000}, "the token is not valid yet"),
        ({"aud": "another"}, "the token is for another audience"),
        ({"aud": ["another", "third"]}, "the token is for another audience"),
        ({"aud": [{"spark": 1}]}, "the token is for another audience"),
        ({"iss": "https://issuer.example.org"}, "the token is from another issuer"),
        ({"iss": "https://issuer.example/"}, "the token is from another issuer"),
        ({"iss": [ISSUER]}, "the token is from another issuer"),
        ({"exp": None}, "the token lacks the claim exp"),
        ({"sub": None}, "the token lacks the claim sub"),
        ({"iss": None}, "the token lacks the claim iss"),
        ({"aud": None}, "the token lacks the claim aud"),
        ({"aud": []}, "the token lacks the claim aud"),
        ({"sub": "ada@example.org"}, "the token's subject is not a UUID"),
        ({"sub": ""}, "the token's subject is not a UUID"),
        ({"sub": 7}, "the token's subject is not a UUID"),
        ({"sub": USER.replace("-", "")}, "the token's subject is not a UUID"),
        ({"sub": f"{{{USER}}}"}, "the token's subject is not a UUID"),
        ({"sub": f"urn:uuid:{USER}"}, "the token's subject is not a UUID"),
        ({"exp": "later"}, "the token is malformed"),
        ({"exp": str(int(time.time()) + 1_000_000)}, "the token is malformed"),
        ({"exp": 10**40}, "the token is malformed"),
        ({"exp": float("inf")}, "the token is malformed"),
        ({"exp": float("nan")}, "the token is malformed"),
        ({"nbf": [1]}, "the token is malformed"),
        ({"iat": "now"}, "the token is malformed"),
    ],
)
def test_claims_that_are_not_right_are_refused_with_a_reason(others: dict[str, Any], reason: str) -> None:
    payload = {name: value for name, value in (claims() | others).items() if value is not None}
    assert refusal(made(HS256, payload)) == reason


def test_the_issuers_clock_may_differ_by_the_leeway() -> None:
    now = int(time.time())
    assert verified(signed(exp=now - 15)).expires_at == datetime.fromtimestamp(now - 15, UTC)
    assert verified(signed(nbf=now + 15, iat=now + 15)).user_id == USER
    strict = by_secret(leeway_s=5)
    assert refusal(signed(exp=now - 15), strict) == "the token has expired"
    assert refusal(signed(nbf=now + 60), strict) == "the token is not valid yet"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "Bearer abc",
        "no token at all",
        "\0",
        "tökén",
        "\ud800" * 9,
        signed() + ".",
        signed() + "." + signed(),
        signed() + "=",
        signed()[:-2],
        " " + signed(),
        signed().replace(".", " . "),
        made(HS256, b"[]"),
        made(HS256, b"\xff\xff"),
        made(HS256, b"9" * 5000),
        made(HS256, b'{"sub":' + b"[" * 2000),
        f"{b64(b'[]')}.{b64(claims())}.",
        f"{b64(b'{')}.{b64(claims())}.",
        made(HS256 | {"kid": 7}, claims()),
        made(HS256 | {"crit": ["exp"], "exp": 1}, claims()),
        made(HS256 | {"b64": False, "crit": ["b64"]}, claims()),
    ],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert refusal(token) == "the token is malformed"


def test_a_huge_token_is_refused_unread() -> None:
    begin = time.perf_counter()
    assert refusal("a" * 50_000_000) == "the token is longer than 8192 characters"
    assert time.perf_counter() - begin < 1
    assert "longer" in refusal(signed(pad="x" * 8192))
    assert verified(signed(pad="x" * 4000)).user_id == USER


@given(data=st.data())
def test_a_token_with_one_character_changed_gets_nothing(data: st.DataObject) -> None:
    token = signed(permissions=list(Permission))
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(
        st.one_of(st.sampled_from("ABCXYZabcxyz0189-_.=+/ \0é"), st.characters()).filter(
            lambda one: one != token[place]
        )
    )
    with pytest.raises(NotAuthenticatedError):
        verified(token[:place] + other + token[place + 1 :])


@given(text=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}")))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(NotAuthenticatedError):
        verified(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "zip"]), JSON))
def test_no_header_does_more_than_be_refused(header: dict[str, Any]) -> None:
    keys = Authenticator(secret=None, jwks_url="http://127.0.0.1:1/", issuer=ISSUER, audience=AUDIENCE)
    for authenticator in (by_secret(), keys):
        with pytest.raises(NotAuthenticatedError):
            verified(made({"alg": "none"} | header, claims()), authenticator)


@given(name=st.sampled_from(["sub", "exp", "iss", "aud", "nbf", "iat", "jti", "permissions", "scope"]), value=JSON)
def test_no_claim_does_more_than_be_refused(name: str, value: object) -> None:
    try:
        identity = verified(made(HS256, claims() | {name: value}))
    except NotAuthenticatedError:
        return
    assert identity.user_id == USER
    assert identity.permissions == frozenset()


@pytest.mark.parametrize(
    ("others", "permissions"),
    [
        ({}, set()),
        ({"permissions": ["spark:read"]}, {Permission.READ}),
        ({"permissions": ["spark:read", "spark:fly", 7, None]}, {Permission.READ}),
        ({"permissions": "spark:admin"}, set()),
        ({"permissions": {"spark:admin": True}}, set()),
        ({"scope": "openid spark:generate"}, {Permission.GENERATE}),
        ({"scope": ["spark:admin"]}, set()),
        ({"scope": "spark:administrator xspark:admin SPARK:ADMIN"}, set()),
        ({"permissions": ["spark:read"], "scope": "spark:admin"}, {Permission.READ, Permission.ADMIN}),
    ],
)
def test_permissions_come_from_either_claim(others: dict[str, Any], permissions: set[Permission]) -> None:
    assert verified(signed(**others)).permissions == permissions


def test_a_permission_that_is_missing_is_named() -> None:
    reader = Identity(USER, frozenset({Permission.READ}), datetime.now(UTC))
    reader.require(Permission.READ)
    assert not reader.allows(Permission.GENERATE)
    with pytest.raises(NotAllowedError, match="spark:generate"):
        reader.require(Permission.GENERATE)
    with pytest.raises(NotAllowedError, match="spark:admin"):
        reader.require(Permission.ADMIN)


def test_an_admin_may_do_everything() -> None:
    admin = Identity(USER, frozenset({Permission.ADMIN}), datetime.now(UTC))
    for permission in Permission:
        admin.require(permission)


@pytest.mark.parametrize(
    ("others", "setting"),
    [
        ({}, "SLATE_JWT_SECRET and SLATE_JWT_JWKS_URL"),
        ({"secret": SecretStr(SECRET), "jwks_url": "https://issuer.example/jwks"}, "SLATE_JWT_SECRET and SLATE_JWT_"),
        ({"secret": SecretStr("")}, "SLATE_JWT_SECRET must have at least 32 bytes"),
        ({"secret": SecretStr("x" * 31)}, "SLATE_JWT_SECRET must have at least 32 bytes"),
        ({"secret": SecretStr(PEM)}, "SLATE_JWT_SECRET is a key pair's half"),
        ({"jwks_url": "http://user:hunter2@issuer.example/jwks"}, "SLATE_JWT_JWKS_URL must be https"),
        ({"jwks_url": "http://localhost.example/jwks"}, "SLATE_JWT_JWKS_URL must be https"),
        ({"jwks_url": "file:///etc/hunter2"}, "SLATE_JWT_JWKS_URL must be https"),
        ({"jwks_url": "https://[hunter2/"}, "SLATE_JWT_JWKS_URL must be https"),
        ({"jwks_url": "hunter2"}, "SLATE_JWT_JWKS_URL must be https"),
        ({"jwks_url": ""}, "SLATE_JWT_JWKS_URL must be https"),
        ({"secret": SecretStr(SECRET), "issuer": ""}, "SLATE_JWT_ISSUER"),
        ({"secret": SecretStr(SECRET), "audience": ""}, "SLATE_JWT_AUDIENCE"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(others: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError, match=setting) as caught:
        Authenticator(**{"secret": None, "jwks_url": None, "issuer": ISSUER, "audience": AUDIENCE} | others)
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in str(caught.value)
    assert SECRET not in told


def test_no_secret_shows() -> None:
    keys = Authenticator(secret=None, jwks_url="https://u:hunter2@issuer.example/", issuer=ISSUER, audience=AUDIENCE)
    told = repr(by_secret()) + str(by_secret()) + repr(vars(by_secret())) + repr(keys) + repr(vars(keys))
    assert SECRET not in told
    assert "hunter2" not in told
