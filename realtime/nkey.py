"""Signatures of NATS: nkeys, which are Ed25519 keys with a checksum in base32, and the JWTs that they sign.

`python -m realtime.nkey` makes the pair with which the HTTP service lets browsers into NATS (`docs/nats.md`). The forms
are those of https://github.com/nats-io/nkeys and https://github.com/nats-io/jwt (version 2).
"""

import base64
import binascii
import json
import secrets
import time
from typing import Any, Final

import nkeys  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import SecretStr

from connectors.errors import ConfigurationError

_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


class Signer:
    """Signs as an account.

    Args:
        seed: of the account, `SA...`.

    Raises:
        ConfigurationError: it is none.
    """

    def __init__(self, seed: SecretStr) -> None:
        try:
            raw = bytearray(seed.get_secret_value().encode("ascii"))
            prefix, _ = nkeys.decode_seed(raw)
            self._pair = nkeys.from_seed(raw)
            self.public = self._pair.public_key.decode().rstrip("=")
        except (nkeys.NkeysError, ValueError, IndexError):
            prefix = None
        if prefix != nkeys.PREFIX_BYTE_ACCOUNT:
            raise ConfigurationError(
                "SLATE_NATS_CALLOUT_SEED is no seed of an account (SA...): `python -m realtime.nkey` makes one"
            )

    def sign(self, claims: dict[str, Any]) -> str:
        """A JWT of claims, with issuer, time and id added."""
        told = {**claims, "iss": self.public, "iat": int(time.time()), "jti": secrets.token_hex(16)}
        text = f"{_encoded(_HEADER)}.{_encoded(told)}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def verified(token: str) -> dict[str, Any]:
    """Claims of a JWT that a server of NATS has signed; `iss` says which.

    Raises:
        ValueError: it is malformed, or its signature is wrong.
    """
    header, claims, signature = token.split(".")
    if json.loads(_decoded(header)).get("alg") != _HEADER["alg"]:
        raise ValueError("signed in another way")
    told = json.loads(_decoded(claims))
    if not isinstance(told, dict) or not isinstance(told.get("iss"), str):
        raise ValueError("it has no issuer")
    try:
        _public_key(told["iss"]).verify(_decoded(signature), f"{header}.{claims}".encode())
    except InvalidSignature:
        raise ValueError("the signature is wrong") from None
    return told


def new_seed() -> SecretStr:
    """A seed of an account."""
    return SecretStr(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_ACCOUNT).decode())


def _public_key(name: str) -> Ed25519PublicKey:
    """That of a server, `N...`."""
    raw = base64.b32decode(name + "=" * (-len(name) % 8))
    if (
        len(raw) != 35
        or raw[0] != nkeys.PREFIX_BYTE_SERVER
        or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little")
    ):
        raise ValueError("it is no server's")
    return Ed25519PublicKey.from_public_bytes(raw[1:-2])


def _encoded(part: dict[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def main() -> None:
    """Print a new pair, as lines for two environments."""
    seed = new_seed()
    # nosemgrep: secret-told - it is what the command is for
    print(f"# for the HTTP service, secret:\nSLATE_NATS_CALLOUT_SEED={seed.get_secret_value()}")  # noqa: T201
    print(f"# for nats-server:\nNATS_CALLOUT_ISSUER={Signer(seed).public}")  # noqa: T201


if __name__ == "__main__":
    main()
