"""What Redis keeps by user: limits, leases, tokens of the month, and for seconds whatever was read or shown lately."""

from collections.abc import Collection
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from connectors.errors import ConnectionFailedError
from connectors.settings import Settings

_CACHES: Final = (b"slate:read:", b"slate:preview:")  # of all users: they are made again when somebody asks
_PAGE: Final = 1000


def erase_traces(settings: Settings, user: str, sessions: Collection[str], *, dry_run: bool = False) -> int:
    """Delete the keys whose name or content names a user or one of the sessions, and all caches; how many that were.

    Without Redis there is nothing.

    Raises:
        ConnectionFailedError: Redis cannot be reached, or refuses.
    """
    if settings.redis_host is None:
        return 0
    names = {one.encode() for one in sessions}
    erased = 0
    try:
        with _client(settings) as client:
            found: list[bytes] = []
            for key in client.scan_iter(match="slate:*", count=_PAGE):
                if key.startswith(_CACHES) or user.encode() in key.lower() or _held_by(client, key, names):
                    found.append(key)
                if len(found) == _PAGE:
                    erased += _delete(client, found, dry_run=dry_run)
                    found = []
            return erased + _delete(client, found, dry_run=dry_run)
    except redis.RedisError as error:
        raise _explained(error) from None


def leases(settings: Settings, user: str) -> list[str]:
    """Sessions of a user that this system holds now, by their leases.

    Raises:
        ConnectionFailedError: Redis cannot be reached, or refuses.
    """
    if settings.redis_host is None:
        return []
    try:
        with _client(settings) as client:
            seconds, micros = client.time()
            now = seconds * 1_000_000 + micros
            held: list[bytes] = client.zrange(f"slate:limit:lease:sessions:{user}", now, "+inf", byscore=True)
            return [one.decode("utf-8", "replace") for one in held]
    except redis.RedisError as error:
        raise _explained(error) from None


def _held_by(client: "redis.Redis", key: bytes, names: set[bytes]) -> bool:
    if not key.startswith(b"slate:limit:lease:"):
        return False
    return not names.isdisjoint(client.zrange(key, 0, -1))


def _delete(client: "redis.Redis", keys: list[bytes], *, dry_run: bool) -> int:
    if keys and not dry_run:
        client.delete(*keys)
    return len(keys)


def _client(settings: Settings) -> "redis.Redis":
    login: dict[str, Any] = settings.redis_login()
    return redis.Redis(
        ssl=settings.redis_tls,
        **login,
        socket_timeout=5,
        socket_connect_timeout=5,
        retry=Retry(NoBackoff(), retries=0),
    )


def _explained(error: redis.RedisError) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"Redis did not do what was asked ({type(error).__name__}: {error}): check REDIS_HOST, that it runs, and that "
        "our user may use SCAN, ZRANGE and DEL on keys slate:*"
    )
