"""The keys that an issuer publishes are followed as they change, and do not let anyone else in."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm
from structlog.testing import capture_logs

from connectors.errors import ConnectionFailedError
from realtime.auth import Authenticator, Identity, NotAuthenticatedError
from tests.support.tokens import (
    EC,
    ED,
    PEM,
    RSA,
    RSA_NEW,
    USER,
    Issuer,
    b64,
    by_key,
    claims,
    jwk,
    made,
    refusal,
    verified,
)
from tests.support.waiting import until


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(jwk("r", RSA), jwk("e", EC, alg="ES256"), jwk("d", ED)) as running:
        yield running


def test_published_keys_of_all_kinds_are_used_and_fetched_once(issuer: Issuer) -> None:
    async def run() -> None:
        authenticator = issuer.authenticator()
        for token in (by_key("r", RSA), by_key("e", EC, "ES256"), by_key("d", ED, "EdDSA")):
            assert (await authenticator.verify(token)).user_id == USER
        tokens = [by_key("r", RSA) for _ in range(20)]
        await asyncio.gather(*map(authenticator.verify, tokens))

    asyncio.run(run())
    assert issuer.asked == 1


def test_those_who_come_at_once_cause_one_fetch(issuer: Issuer) -> None:
    async def run() -> None:
        authenticator = issuer.authenticator()
        token = by_key("r", RSA)
        cancelled = asyncio.create_task(authenticator.verify(token))
        await until(lambda: issuer.asked == 1)
        cancelled.cancel()
        issuer.gate.set()
        await asyncio.gather(*(authenticator.verify(token) for _ in range(50)))

    issuer.gate.clear()
    asyncio.run(run())
    assert issuer.asked == 1


def test_claims_are_checked_with_published_keys_too(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    past = int(time.time()) - 600
    assert refusal(by_key("r", RSA, exp=past), authenticator) == "the token has expired"
    assert refusal(by_key("r", RSA, aud="other"), authenticator) == "the token is for another audience"
    assert refusal(by_key("r", RSA, iss="other"), authenticator) == "the token is from another issuer"


def test_another_key_under_a_published_name_is_refused(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    assert refusal(by_key("r", RSA_NEW), authenticator) == "the token's signature is wrong"
    other = ec.generate_private_key(ec.SECP256R1())
    assert refusal(by_key("e", other, "ES256"), authenticator) == "the token's signature is wrong"


def test_a_key_is_good_for_its_own_algorithm_only(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    for token in (by_key("e", RSA), by_key("r", EC, "ES256"), by_key("r", RSA, "RS512"), by_key("r", RSA, "PS256")):
        assert "of a kind that is not accepted" in refusal(token, authenticator)


@pytest.mark.parametrize("name", ["r", "oct"])
def test_a_public_key_is_no_secret(issuer: Issuer, name: str) -> None:
    issuer.keys.append({"kty": "oct", "kid": "oct", "alg": "HS256", "k": b64(PEM.encode())})
    listed = json.dumps(jwk("r", RSA))
    authenticator = issuer.authenticator()
    for public in (PEM, PEM.strip(), listed):
        token = made({"alg": "HS256", "kid": name}, claims(scope="spark:admin"), public)
        assert "of a kind that is not accepted" in refusal(token, authenticator)
    for algorithm in ("RS256", "ES256", "EdDSA"):
        token = made({"alg": algorithm, "kid": name}, claims(scope="spark:admin"), PEM)
        refusal(token, authenticator)
    none = f"{b64({'alg': 'none', 'kid': name})}.{b64(claims())}."
    assert "of a kind that is not accepted" in refusal(none, authenticator)


def test_a_token_by_a_key_is_nothing_where_a_secret_is_shared() -> None:
    assert "of a kind that is not accepted" in refusal(by_key("r", RSA))


def test_a_token_that_names_no_key_is_refused_unasked(issuer: Issuer) -> None:
    assert refusal(by_key(None, RSA), issuer.authenticator()) == "the token does not name its key (kid)"
    assert issuer.asked == 0


def test_keys_in_the_token_itself_are_not_used(issuer: Issuer) -> None:
    headers = {"kid": "r", "jwk": jwk("r", RSA_NEW), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}
    token = jwt.encode(claims(), RSA_NEW, algorithm="RS256", headers=headers)
    assert refusal(token, issuer.authenticator()) == "the token's signature is wrong"


def test_keys_that_must_not_sign_are_left_out() -> None:
    weak = rsa.generate_private_key(65_537, 1024)
    private = RSAAlgorithm.to_jwk(RSA_NEW, as_dict=True)
    odd: list[Any] = [7, {}, {"kid": "r"}, {"kty": "RSA", "kid": "x"}, {"kty": ["EC"], "kid": "y"}, {"kty": "EC"}]
    with Issuer(
        *odd, jwk("enc", RSA_NEW, use="enc"), {**private, "kid": "private"}, jwk("weak", weak), jwk("r", RSA)
    ) as on:
        authenticator = on.authenticator()
        assert verified(by_key("r", RSA), authenticator).user_id == USER
        for kid in ("enc", "private"):
            assert "does not publish" in refusal(by_key(kid, RSA_NEW), authenticator)
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            token = by_key("weak", weak)
        assert "not strong enough" in refusal(token, authenticator)


def test_a_new_key_is_found_and_an_old_one_ends(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    old, new = by_key("r", RSA), by_key("r2", RSA_NEW)
    assert verified(old, authenticator).user_id == USER
    issuer.keys = [jwk("r2", RSA_NEW)]
    issuer.now += 31
    assert verified(new, authenticator).user_id == USER
    assert issuer.asked == 2
    assert "does not publish" in refusal(old, authenticator)


def test_a_key_that_is_withdrawn_ends_after_five_minutes(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    token = by_key("r", RSA)
    verified(token, authenticator)
    issuer.keys = [jwk("r", RSA_NEW)]
    issuer.now += 299
    verified(token, authenticator)
    assert issuer.asked == 1
    issuer.now += 2
    assert refusal(token, authenticator) == "the token's signature is wrong"
    assert issuer.asked == 2


def test_unknown_keys_do_not_hammer_the_issuer(issuer: Issuer) -> None:
    async def run() -> None:
        authenticator = issuer.authenticator()
        for seconds in (0, 31, 31):
            issuer.now += seconds
            calls = [authenticator.verify(by_key(f"unknown{number}", EC, "ES256")) for number in range(30)]
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(answer, NotAuthenticatedError)
        await authenticator.verify(by_key("r", RSA))

    asyncio.run(run())
    assert issuer.asked == 3


def failure(issuer: Issuer, kind: str) -> None:
    """Let the issuer fail."""
    if kind == "status":
        issuer.status = 503
    elif kind == "redirect":
        issuer.status = 302
    else:
        issuer.body = {
            "no json": b"<html>",
            "no keys": b'{"keys": []}',
            "no public keys": json.dumps({"keys": [{"kty": "oct", "kid": "r", "k": b64(b"k" * 32)}]}).encode(),
            "no set": b"[1]",
            "deep": b"[" * 500_000,
            "too long": json.dumps({"keys": issuer.keys}).encode() + b" " * (1 << 21),
        }[kind]


KINDS = ["status", "redirect", "no json", "no keys", "no public keys", "no set", "deep", "too long"]


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_used_for_an_hour_while_their_server_is_away(issuer: Issuer, kind: str) -> None:
    authenticator = issuer.authenticator()
    token = by_key("r", RSA)
    with capture_logs() as logs:
        verified(token, authenticator)
        failure(issuer, kind)
        for _ in range(10):
            issuer.now += 350
            verified(token, authenticator)
        assert [one["log_level"] for one in logs] == ["warning"]
        issuer.now += 101
        expect_away(token, authenticator)
        issuer.status, issuer.body = 200, None
        issuer.now += 1
        verified(token, authenticator)
    assert [one["log_level"] for one in logs] == ["warning", "info"]
    assert "hunter2" not in repr(logs)


def expect_away(token: str, authenticator: Authenticator) -> None:
    with pytest.raises(ConnectionFailedError, match="SLATE_JWT_JWKS_URL") as caught:
        verified(token, authenticator)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_without_any_keys_the_server_is_asked_once_a_second(issuer: Issuer) -> None:
    issuer.status = 500
    authenticator = issuer.authenticator()
    for _ in range(5):
        expect_away(by_key("r", RSA), authenticator)
    assert issuer.asked == 1
    issuer.status = 200
    issuer.now += 1
    assert verified(by_key("r", RSA), authenticator).user_id == USER


def test_while_the_server_is_away_nobody_says_that_a_new_key_is_wrong(issuer: Issuer) -> None:
    authenticator = issuer.authenticator()
    verified(by_key("r", RSA), authenticator)
    issuer.keys.append(jwk("r2", RSA_NEW))
    issuer.status = 500
    issuer.now += 31
    for _ in range(3):
        expect_away(by_key("r2", RSA_NEW), authenticator)
    assert verified(by_key("r", RSA), authenticator).user_id == USER
    assert issuer.asked == 2
    issuer.status = 200
    issuer.now += 31
    assert verified(by_key("r2", RSA_NEW), authenticator).user_id == USER


def test_a_server_that_hangs_holds_up_only_the_first(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.auth._TIMEOUT_S", 0.2)

    async def run() -> None:
        authenticator = issuer.authenticator()
        token = by_key("r", RSA)
        await authenticator.verify(token)
        issuer.gate.clear()
        issuer.now += 301
        await authenticator.verify(token)
        asked = issuer.asked
        issuer.now += 31
        await within(authenticator.verify(token))
        await until(lambda: issuer.asked == asked + 1)

    asyncio.run(run())


async def within(call: Awaitable[Identity]) -> None:
    """The call needs no server: it is done the next time that the loop comes round."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    assert task.done()
    await task


def test_a_server_that_is_gone_is_away() -> None:
    with Issuer(jwk("r", RSA)) as issuer:
        authenticator = issuer.authenticator()
        verified(by_key("r", RSA), authenticator)
    issuer.now += 301
    verified(by_key("r", RSA), authenticator)
    issuer.now += 3600
    expect_away(by_key("r", RSA), authenticator)


def test_http_logs_of_libraries_hold_no_token(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = by_key("r", RSA)
    verified(token, issuer.authenticator())
    assert token not in caplog.text
