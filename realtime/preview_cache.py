"""Previews of a project that has not changed, by reference, in Redis: all instances share them.

A preview is of one revision of its project, and each change through SPARK begins another. What is changed by hand in
the editor cannot be seen, so an entry lives for a minute only. Without Redis nothing is cached.
"""

import hashlib
from typing import Final, NamedTuple

from redis.asyncio import Redis

from connectors.redis_fallback import Fallback

LIFETIME_S: Final = 60
"""How long a preview is taken for that of the scene, seconds."""
_REVISION_LIFETIME_S: Final = 86_400


class View(NamedTuple):
    """What a preview shows."""

    instance: str
    camera: str
    width: int
    height: int


class PreviewCache:
    """References of frames by project, revision and view."""

    def __init__(self, client: Redis | None) -> None:
        self._client = client
        self._fallback = Fallback("previews")

    async def find(self, view: View) -> tuple[str, str | None]:
        """The project's revision, and the frame of this view if there is one. An empty revision: no cache."""
        client = self._client
        if client is None:
            return "", None

        async def ask() -> tuple[str, str | None]:
            revision = _text(await client.get(self._revision_key(view.instance))) or "0"
            return revision, _text(await client.get(self._key(view, revision)))

        return await self._fallback.run(ask, lambda: ("", None))

    async def store(self, view: View, revision: str, frame_ref: str) -> None:
        """Keep a frame of the revision that `find` gave before it was taken."""
        client = self._client
        if client is None or not revision:
            return

        async def keep() -> None:
            await client.set(self._key(view, revision), frame_ref, ex=LIFETIME_S)

        await self._fallback.run(keep, lambda: None)

    async def changed(self, instance: str) -> None:
        """Begin another revision of a project."""
        client = self._client
        if client is None:
            return

        async def begin() -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.incr(self._revision_key(instance))
                pipe.expire(self._revision_key(instance), _REVISION_LIFETIME_S)
                await pipe.execute()

        await self._fallback.run(begin, lambda: None)

    @staticmethod
    def _revision_key(instance: str) -> str:
        return f"slate:project:{instance}"

    @staticmethod
    def _key(view: View, revision: str) -> str:
        about = "\0".join((*map(str, view), revision))
        return f"slate:preview:{hashlib.blake2b(about.encode(), digest_size=16).hexdigest()}"


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
