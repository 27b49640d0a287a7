"""Redis: whether it answers."""

from collections.abc import Iterator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from connectors.settings import Settings
from deploy.checks.row import Check, first_line


def check_redis(settings: Settings) -> Iterator[Check]:
    """Whether Redis or Valkey answers; ingest works without."""
    if settings.redis_host is None:
        yield Check("Redis", "warn", "no address", "set REDIS_HOST, or start one with `slate up`")
        return
    address = f"{settings.redis_host}:{settings.redis_port}"
    try:
        with redis_client(settings) as client:
            client.ping()
    except redis.RedisError as error:
        yield Check(
            "Redis",
            "warn",
            first_line(error),
            "check that it runs, REDIS_HOST and REDIS_PORT, SLATE_REDIS_USER, _PASSWORD and _TLS",
        )
    else:
        yield Check("Redis", "ok", address)


def redis_client(settings: Settings) -> redis.Redis:
    """A client that answers or fails within seconds."""
    return redis.Redis(
        ssl=settings.redis_tls,
        **settings.redis_login(),
        socket_timeout=3,
        socket_connect_timeout=3,
        retry=Retry(NoBackoff(), retries=0),
    )
