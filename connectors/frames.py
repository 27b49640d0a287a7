"""Where pictures of previews are kept: a directory, or an object store that takes HTTP PUT.

Guarantee: a frame that `put` returned for can be read by its reference. A frame is named by its content, so storing
it again stores nothing more, and two events may refer to one.
"""

import asyncio
import hashlib
import os
import re
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from pydantic import SecretStr

from connectors.errors import ConfigurationError, SlateError

_TIMEOUT_S: Final = 10.0
_WANTED: Final = "SLATE_FRAMES_URL must be file:///directory or https://host/prefix"


class FrameStoreError(SlateError):
    """A frame was not stored."""


class FrameStore(Protocol):
    """Keeps PNG files."""

    async def put(self, image: bytes) -> str:
        """Store a picture and return its reference.

        Raises:
            FrameStoreError: it was not stored.
        """
        ...

    async def remove(self, reference: str) -> bool:
        """Delete a picture; false where it is not there, or where the reference is none of this store.

        Raises:
            FrameStoreError: it may still be there.
        """
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...


def frame_store(url: str, token: SecretStr | None = None) -> FrameStore:
    """The store that a URL names: `file:///directory` or `https://host/prefix`.

    Raises:
        ConfigurationError: it is neither, or has what does not belong into references: credentials, a query, a
            fragment; or the token cannot be sent.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise ConfigurationError(_WANTED) from None
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        return FileFrames(Path(url2pathname(parts.path)))
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(_WANTED)
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            "SLATE_FRAMES_URL must have no credentials, query or fragment, for references to frames begin with it: "
            "set SLATE_FRAMES_TOKEN where the store wants one"
        )
    return HttpFrames(url, token)


_NAME: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}\.png")


def _name(image: bytes) -> str:
    digest = hashlib.sha256(image).hexdigest()
    return f"{digest[:2]}/{digest[2:34]}.png"


class FileFrames:
    """Frames below a directory, which is made where it is missing. References are relative to it: `ab/cdef.png`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def put(self, image: bytes) -> str:
        """Store a picture, whole or not at all."""
        name = _name(image)
        try:
            await asyncio.to_thread(self._write, self.directory / name, image)
        except OSError as error:
            raise FrameStoreError(
                f"no preview can be kept in {self.directory} ({error.strerror or error}): see SLATE_FRAMES_URL"
            ) from None
        return name

    def _write(self, path: Path, image: bytes) -> None:
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}.new")
        try:
            with new.open("xb") as file:
                file.write(image)
                file.flush()
                os.fsync(file.fileno())  # else a crash of the machine may leave the name without the picture
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def path_of(self, reference: str) -> Path | None:
        """The file of a reference; None where it is none of ours: events may refer to anything."""
        return self.directory / reference if _NAME.fullmatch(reference) else None

    async def remove(self, reference: str) -> bool:
        """Delete a picture."""
        path = self.path_of(reference)
        if path is None:
            return False
        try:
            await asyncio.to_thread(path.unlink)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FrameStoreError(
                f"a preview cannot be deleted from {self.directory} ({error.strerror or error}): see SLATE_FRAMES_URL"
            ) from None
        return True

    async def close(self) -> None:
        """There is nothing to close."""


class HttpFrames:
    """Frames below a URL, each put there with one request. References are URLs.

    Args:
        url: prefix, such as `https://objects.example/previews`.
        token: sent as `Authorization: Bearer`, where the store wants one.

    Raises:
        ConfigurationError: the token has characters that no header takes.
    """

    def __init__(self, url: str, token: SecretStr | None = None) -> None:
        self._url = url.rstrip("/")
        if token and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise ConfigurationError("SLATE_FRAMES_TOKEN must be printable ASCII without blanks")
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S)

    async def put(self, image: bytes) -> str:
        """Store a picture; the same one again is the same object."""
        reference = f"{self._url}/{_name(image)}"
        try:
            answer = await self._http.put(reference, content=image, headers={"Content-Type": "image/png"})
        except httpx.HTTPError as error:
            raise FrameStoreError(
                f"the store of previews does not answer ({type(error).__name__}): see SLATE_FRAMES_URL"
            ) from None
        if answer.status_code >= 300:
            raise FrameStoreError(
                f"the store of previews does not take frames ({answer.status_code}): see SLATE_FRAMES_URL"
            )
        return reference

    async def remove(self, reference: str) -> bool:
        """Delete a picture with one request."""
        if not reference.startswith(f"{self._url}/") or not _NAME.fullmatch(reference.removeprefix(f"{self._url}/")):
            return False
        try:
            answer = await self._http.delete(reference)
        except httpx.HTTPError as error:
            raise FrameStoreError(
                f"the store of previews does not answer ({type(error).__name__}): see SLATE_FRAMES_URL"
            ) from None
        if answer.status_code >= 300 and answer.status_code not in (404, 410):
            raise FrameStoreError(
                f"the store of previews does not delete frames ({answer.status_code}): see SLATE_FRAMES_URL"
            )
        return answer.status_code < 300

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()
