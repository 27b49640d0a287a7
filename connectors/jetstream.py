"""Connections to NATS, and the stream that SPARK's events are kept in."""

import re
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import nats
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
    SubjectTransform,
)

from connectors.errors import ConnectionFailedError, StreamError
from connectors.settings import Settings

SUBJECTS: Final = "spark.>"
"""What the stream captures."""
DUPLICATE_WINDOW_S: Final = 120.0
"""For how long JetStream itself drops a repeated `Nats-Msg-Id`, seconds."""
TRANSFORM_VERSION: Final = (2, 12)
"""First server whose `partition(n)` hashes a subject of any length."""
UNPARTITIONED: Final = -1
"""The partition of messages that the stream holds under their own subject: all of a stream without a transform, and
in others what came before it had one, or has a wildcard's name, which the server does not transform."""

_log = structlog.get_logger(__name__)

Callback = Callable[[], Awaitable[None]]


async def connect(
    settings: Settings, name: str, *, client: Client | None = None, wait: bool = False, **options: Any
) -> Client:
    """Connect to NATS; afterwards the client reconnects by itself, for ever.

    `wait` keeps trying when the server cannot be reached at first, too.

    Raises:
        ConfigurationError: no NATS is set.
        ConnectionFailedError: the server cannot be reached, or refuses us.
    """
    told = False

    async def report(error: Exception) -> None:
        nonlocal told
        if not told:
            _log.warning("nats connection trouble", error=str(error) or type(error).__name__, client=name)
        told = True

    async def restored() -> None:
        nonlocal told
        told = False
        _log.info("nats reconnected", client=name)
        if reconnected is not None:
            await reconnected()

    servers, credentials = _split_credentials(settings.nats_servers())
    reconnected: Callback | None = options.pop("reconnected_cb", None)
    client = client or Client()
    try:
        await client.connect(
            servers,
            name=name,
            **credentials,
            error_cb=report,
            reconnected_cb=restored,
            allow_reconnect=True,
            max_reconnect_attempts=-1 if wait else 1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; any number sleeps
            connect_timeout=3,
            ping_interval=10,
            inbox_prefix=settings.nats_inbox,
            tls=settings.tls() if any(one.startswith("tls://") for one in servers) else None,
            max_outstanding_pings=2,
            **options,
        )
    except (OSError, nats.errors.Error, TimeoutError, ssl.SSLError) as error:
        raise ConnectionFailedError(
            f"NATS does not answer ({type(error).__name__}: {error}); check NATS_URL and that the server runs"
        ) from None
    client.options["max_reconnect_attempts"] = -1
    return client


def _split_credentials(urls: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Server addresses, and the user or token that their URLs hold, percent-decoded (the library takes it as it is)."""
    parts = [urlsplit(url) for url in urls]
    servers = [part._replace(netloc=part.netloc.rpartition("@")[2]).geturl() for part in parts]
    first = parts[0]
    if first.username is None:
        return servers, {}
    if first.password is None:
        return servers, {"token": unquote(first.username)}
    return servers, {"user": unquote(first.username), "password": unquote(first.password)}


def stream_config(settings: Settings) -> StreamConfig:
    """The stream as `slate migrate` creates it."""
    transform = None
    if settings.partitions > 1:
        transform = SubjectTransform(src=SUBJECTS, dest=f"p.{{{{partition({settings.partitions})}}}}.{SUBJECTS}")
    return StreamConfig(
        name=settings.stream,
        description="SPARK events",
        subjects=[SUBJECTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=settings.stream_max_age_s,
        max_bytes=settings.stream_max_bytes,
        num_replicas=settings.stream_replicas,
        duplicate_window=DUPLICATE_WINDOW_S
        if not settings.stream_max_age_s
        else min(DUPLICATE_WINDOW_S, settings.stream_max_age_s),
        allow_direct=True,
        subject_transform=transform,
    )


def partition_numbers(settings: Settings) -> list[int]:
    """All partitions of the stream."""
    return [UNPARTITIONED, *(range(settings.partitions) if settings.partitions > 1 else ())]


def partitions_to_read(settings: Settings) -> list[int]:
    """Those that a worker of ingest reads; what is not partitioned goes with the first.

    Raises:
        ConfigurationError: SLATE_WORKER_PARTITIONS names one that the stream has not.
    """
    read = settings.partitions_read
    return [one for one in partition_numbers(settings) if max(one, 0) in read]


def partition_filter(partition: int) -> str:
    """The subjects of one partition as they are stored."""
    return SUBJECTS if partition == UNPARTITIONED else f"p.{partition}.>"


def server_version(client: Client) -> tuple[int, ...]:
    """Major, minor and patch of the server that a client is connected to."""
    version = client.connected_server_version
    return (version.major, version.minor, version.patch)


async def ensure_stream(settings: Settings) -> StreamInfo:
    """Create the stream, or check the one that is there; a higher partition count is applied to it.

    Messages that it holds already stay in their partitions, and are read there. A lower count is refused: what
    the partitions above it hold would never be read.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
        StreamError: the server is too old, has no JetStream, or the stream is not as the settings say.
    """
    client = await connect(settings, "slate-migrate")
    try:
        if settings.partitions > 1 and server_version(client) < TRANSFORM_VERSION:
            raise StreamError(
                f"NATS {'.'.join(map(str, server_version(client)))} cannot partition subjects of every length: "
                "upgrade to 2.12, or set SLATE_PARTITIONS=1"
            )
        manager = client.jetstream(timeout=5)
        wanted = stream_config(settings)
        try:
            info = await manager.stream_info(settings.stream)
        except nats.js.errors.NotFoundError:
            return await manager.add_stream(wanted)
        problems = differences(info.config, settings)
        if not problems:
            return info
        if info.config.subjects != wanted.subjects:
            raise StreamError("; ".join(problems))
        had = _partition_count(info.config)
        if had is None or had > settings.partitions:
            raise StreamError(
                f"stream {settings.stream} has {had or 'other'} partitions, and cannot have {settings.partitions}: "
                "what it holds in the others would never be read; set "
                f"SLATE_PARTITIONS={had or settings.partitions} again, or name a new SLATE_STREAM"
            )
        info.config.subject_transform = wanted.subject_transform
        return await manager.update_stream(info.config)
    except nats.js.errors.APIError as error:
        raise StreamError(
            f"JetStream refused the stream {settings.stream}: {error.description}. Another stream may hold "
            f"{SUBJECTS}; set SLATE_STREAM to its name, or free the subjects"
        ) from None
    except (nats.js.errors.ServiceUnavailableError, nats.errors.NoRespondersError):
        raise StreamError("this NATS has no JetStream: start it with `jetstream {}` in its configuration") from None
    except (nats.errors.Error, TimeoutError) as error:
        raise ConnectionFailedError(f"NATS stopped answering: {type(error).__name__}; check its log") from None
    finally:
        await client.close()


def _partition_count(config: StreamConfig) -> int | None:
    """Into how many partitions a stream is divided; None where its transform is not ours."""
    if config.subject_transform is None:
        return 1
    found = re.fullmatch(r"p\.\{\{partition\((\d+)\)\}\}\." + re.escape(SUBJECTS), config.subject_transform.dest or "")
    return int(found[1]) if found else None


def differences(config: StreamConfig, settings: Settings) -> list[str]:
    """What is wrong with a stream, in a person's words; empty when nothing is."""
    problems = []
    wanted = stream_config(settings)
    if config.subjects != wanted.subjects:
        problems.append(f"stream {settings.stream} captures {config.subjects}, not {wanted.subjects}")
    has = config.subject_transform.dest if config.subject_transform else None
    wants = wanted.subject_transform.dest if wanted.subject_transform else None
    if has != wants:
        problems.append(
            f"stream {settings.stream} is partitioned by {has}, SLATE_PARTITIONS={settings.partitions} wants {wants}; "
            "run `slate migrate`"
        )
    return problems


async def check_stream(settings: Settings) -> list[str]:
    """Problems of the stream on the server, for `slate doctor`; empty when it is as the settings say.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
    """
    client = await connect(settings, "slate-doctor")
    try:
        info = await client.jetstream(timeout=5).stream_info(settings.stream)
        return differences(info.config, settings)
    except nats.js.errors.NotFoundError:
        return [f"there is no stream {settings.stream}; run `slate migrate`"]
    except (nats.errors.Error, TimeoutError) as error:
        return [f"JetStream does not answer ({type(error).__name__}); is it enabled?"]
    finally:
        await client.close()


async def backlog(settings: Settings, positions: dict[int, int]) -> tuple[int, float]:
    """How many messages wait behind positions of partitions, and for how long the longest has, seconds.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
        StreamError: there is no such stream.
    """
    client = await connect(settings, "slate-backlog")
    waiting, oldest = 0, 0.0
    try:
        manager = client.jetstream(timeout=5)
        for partition, position in positions.items():
            config = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=position + 1,
                ack_policy=AckPolicy.NONE,
                filter_subject=partition_filter(partition),
                inactive_threshold=5.0,
                mem_storage=True,
                num_replicas=1,
            )
            consumer = await manager.add_consumer(settings.stream, config)
            await manager.delete_consumer(settings.stream, consumer.name)
            if consumer.num_pending:
                waiting += consumer.num_pending
                first = await manager.get_msg(
                    settings.stream, seq=position + 1, subject=partition_filter(partition), next=True
                )
                if first.time is not None:
                    oldest = max(oldest, time.time() - first.time.timestamp())
    except nats.js.errors.NotFoundError as error:
        raise StreamError(f"the stream {settings.stream} cannot be looked at: {error.description}") from None
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise ConnectionFailedError(f"NATS stopped answering: {type(error).__name__}") from None
    finally:
        await client.close()
    return waiting, oldest
