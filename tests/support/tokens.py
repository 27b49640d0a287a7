"""Tokens, right and wrong, and an issuer that publishes its keys."""

import asyncio
import base64
import hmac
import json
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from realtime.auth import Authenticator, Identity, NotAuthenticatedError

SECRET = "correct horse battery staple, and then some"
USER = "3f2b8c1e-6a4d-4e0f-9b7a-0123456789ab"
ISSUER, AUDIENCE = "https://issuer.example", "spark"
RSA = rsa.generate_private_key(65_537, 2048)
RSA_NEW = rsa.generate_private_key(65_537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**others: Any) -> dict[str, Any]:
    """Claims that are right, with others; None leaves one out."""
    now = int(time.time())
    all_of_them = {"sub": USER, "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "iat": now, **others}
    return {name: value for name, value in all_of_them.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = "HS256", **others: Any) -> str:
    return jwt.encode(claims(**others), secret, algorithm=algorithm)


def by_secret(secret: str = SECRET, **others: Any) -> Authenticator:
    return Authenticator(secret=SecretStr(secret), jwks_url=None, issuer=ISSUER, audience=AUDIENCE, **others)


def verified(token: str, authenticator: Authenticator | None = None) -> Identity:
    return asyncio.run((authenticator or by_secret()).verify(token))


def refusal(token: str, authenticator: Authenticator | None = None) -> str:
    """Why it is refused; neither the words nor the stack trace hold the token or the secret."""
    with pytest.raises(NotAuthenticatedError) as caught:
        verified(token, authenticator)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    for part in token.split("."):
        assert len(part) < 8 or part not in told
    return str(caught.value)


def b64(part: bytes | dict[str, Any]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hmac_of(text: str, secret: bytes) -> bytes:
    return hmac.digest(secret, text.encode(), "sha256")


def made(header: dict[str, Any], payload: bytes | dict[str, Any], secret: str = SECRET) -> str:
    """A token with a right signature whatever is in it."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(hmac_of(text, secret.encode()))}"


HS256 = {"alg": "HS256", "typ": "JWT"}


def jwk(kid: str, key: PrivateKeyTypes, **others: object) -> dict[str, object]:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        listed = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        listed = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey)
        listed = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**listed, "kid": kid, "use": "sig", **others}


def by_key(kid: str | None, key: Any, algorithm: str = "RS256", **others: Any) -> str:
    return jwt.encode(claims(**others), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class Issuer:
    """Publishes keys on this machine. `keys`, `status`, `body` and `gate` may be changed while it runs."""

    def __init__(self, *keys: dict[str, object]) -> None:
        self.keys = list(keys)
        self.status = 200
        self.body: bytes | None = None
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.now = 1000.0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.gate.wait(20)
                body = issuer.body if issuer.body is not None else json.dumps({"keys": issuer.keys}).encode()
                self.send_response(issuer.status)
                if issuer.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def authenticator(self) -> Authenticator:
        url = f"http://user:hunter2@127.0.0.1:{self._server.server_port}/jwks"
        return Authenticator(secret=None, jwks_url=url, issuer=ISSUER, audience=AUDIENCE, clock=lambda: self.now)
