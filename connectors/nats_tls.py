"""What the NATS library leaves to us about TLS and lost connections, and its errors in words for a person.

This touches private parts (`_transport`, `_connect_command`, `_server_info`); the library's version is pinned, and
`tests/integration/test_nats_security.py` holds it to them.
"""

import asyncio
import ssl
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

_GOODBYE_S: Final = 1.0


class Transport(TcpTransport):
    """The library's, except that it does not wait for the end of a connection whose peer says nothing.

    Of a connection whose TLS never came to be asyncio tells no end at all, and of one whose peer is gone after 30 s:
    a wrong certificate would hang `connect`, and a host that is cut off keep us from going to another.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __bool__(self) -> bool:
        return True  # of one that is not connected yet the library says no, and makes its own

    async def wait_closed(self) -> None:
        """Wait for the end, but not for long."""
        if self._io_writer is None:
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._io_writer.wait_closed()
        except TimeoutError:
            self._io_writer.transport.abort()


def insist_on_tls(client: Client) -> None:
    """Let a client tell a server our password over TLS only: the library leaves it to the server, which may be another.

    A server without TLS becomes `SecureConnWantedError`.
    """
    command = client._connect_command

    def checked() -> bytes:
        if not client._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return command()

    client._connect_command = checked  # type: ignore[method-assign]


def explained(error: BaseException, *, secure: bool) -> str:
    """Why a server cannot be reached or refuses us, and what to do; `secure` says whether its address has tls://."""
    if isinstance(error, ssl.SSLCertVerificationError) and not secure:
        return "NATS asks for TLS: begin its address in NATS_URL with tls://, and set SLATE_CA_FILE"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of NATS is not trusted ({error.verify_message}): check that SLATE_CA_FILE has the "
            "authority that signed it, that NATS_URL has a name that it is for, and its date"
        )
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "NATS does not speak TLS, and NATS_URL says tls://: the password was not sent; turn TLS on at the server"
    if "authorization violation" in str(error).lower():
        return "NATS refuses us: check user and password in NATS_URL"
    return f"NATS does not answer ({type(error).__name__}: {error}); check NATS_URL and that the server runs"
