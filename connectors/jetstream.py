"""Connections to NATS, and the stream that SPARK's events are kept in."""

import re
import ssl
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
from connectors.nats_tls import Transport, explained, insist_on_tls
from connectors.settings import Settings

SUBJECTS: Final = "spark.>"
"""What the stream captures."""
DUPLICATE_WINDOW_S: Final = 120.0
"""For how long JetStream itself drops a repeated `Nats-Msg-Id`, seconds."""
ACCOUNT_FULL: Final = 10002
"""JetStream's code for an account at its limits: of class 400, but it says nothing about the message."""
TRANSFORM_VERSION: Final = (2, 12)
"""First server whose `partition(n)` hashes a subject of any length."""
UNPARTITIONED: Final = -1
"""The partition of messages that the stream holds under their own subject: all of a stream without a transform, and
in others what came before it had one, or has a wildcard's name, which the server does not transform."""

_FORBIDDEN: Final = "permissions violation"
_TROUBLE: Final = "connection"
_MOST_TOLD: Final = 100

_log = structlog.get_logger(__name__)

Callback = Callable[[], Awaitable[None]]


async def connect(
    settings: Settings,
    name: str,
    *,
    client: Client | None = None,
    wait: bool = False,
    refused: Callable[[str], object] | None = None,
    **options: Any,
) -> Client:
    """Connect to NATS; afterwards the client reconnects by itself, for ever.

    An address with tls:// gets our password over TLS or not at all. `wait` keeps trying when the server cannot be
    reached at first, too. `refused` is told whenever NATS refuses a subject, in words for a person: to the library
    that is an answer that never comes.

    Raises:
        ConfigurationError: no NATS is set.
        ConnectionFailedError: the server cannot be reached, or refuses us.
    """
    servers, credentials = _split_credentials(settings.nats_servers())
    secure = any(one.startswith("tls://") for one in servers)
    told: set[str] = set()
    cause: Exception | None = None

    async def report(error: Exception) -> None:
        nonlocal cause
        if _FORBIDDEN in str(error):
            words = _refusal(str(error))
            if refused is not None:
                refused(words)
            if words not in told and len(told) < _MOST_TOLD:
                _log.error("NATS refused", error=words, client=name)
            told.add(words)
            return
        if not isinstance(cause, nats.errors.Error | ssl.SSLCertVerificationError):  # these say more than what follows
            cause = error
        if _TROUBLE not in told:
            _log.warning("nats connection trouble", error=explained(error, secure=secure), client=name)
        told.add(_TROUBLE)

    async def restored() -> None:
        told.clear()
        _log.info("nats reconnected", client=name)
        if reconnected is not None:
            await reconnected()

    reconnected: Callback | None = options.pop("reconnected_cb", None)
    client = client or Client()
    client._transport = Transport()
    if secure:
        insist_on_tls(client)
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
            tls=settings.tls() if secure else None,
            max_outstanding_pings=2,
            **options,
        )
    except (OSError, nats.errors.Error, TimeoutError, ssl.SSLError) as error:
        raise ConnectionFailedError(explained(cause or error, secure=secure)) from None
    client.options["max_reconnect_attempts"] = -1
    return client


def _unanswered(error: BaseException, refusals: list[str]) -> ConnectionFailedError:
    """What to say where no answer came: what was refused, if anything was."""
    return ConnectionFailedError(
        refusals[0] if refusals else f"NATS stopped answering: {type(error).__name__}; check its log"
    )


def _refusal(words: str) -> str:
    """What NATS says of a subject, which the library has in lower case, and what to do."""
    what = words.removeprefix("nats: ")
    remedy = (
        "set SLATE_NATS_INBOX to the inbox of the user in NATS_URL"
        if 'subscription to "_inbox' in what
        else "use the user whose work this is, or allow it (docs/nats.md)"
    )
    return f"NATS refused: {what}; {remedy}"


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
    return numbers_of(settings.partitions)


def numbers_of(partitions: int) -> list[int]:
    """The partitions of a stream that is divided into so many."""
    return [UNPARTITIONED, *(range(partitions) if partitions > 1 else ())]


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
    refusals: list[str] = []
    client = await connect(settings, "slate-migrate", refused=refusals.append)
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
        had = partition_count(info.config)
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
        raise _unanswered(error, refusals) from None
    finally:
        await client.close()


def partition_count(config: StreamConfig) -> int | None:
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
        more = (partition_count(config) or 0) > settings.partitions
        problems.append(
            f"stream {settings.stream} is partitioned by {has}, SLATE_PARTITIONS={settings.partitions} wants {wants}; "
            + (
                f"set SLATE_PARTITIONS={partition_count(config)}, and restart workers"
                if more
                else "run `slate migrate`"
            )
        )
    return problems


async def check_stream(settings: Settings) -> list[str]:
    """Problems of the stream on the server, for `slate doctor`; empty when it is as the settings say.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
    """
    refusals: list[str] = []
    client = await connect(settings, "slate-doctor", refused=refusals.append)
    try:
        info = await client.jetstream(timeout=5).stream_info(settings.stream)
        return differences(info.config, settings)
    except nats.js.errors.NotFoundError:
        return [f"there is no stream {settings.stream}; run `slate migrate`"]
    except (nats.errors.Error, TimeoutError) as error:
        return refusals or [f"JetStream does not answer ({type(error).__name__}); is it enabled?"]
    finally:
        await client.close()


async def backlog(settings: Settings, positions: dict[int, int], now: float) -> tuple[int, float]:
    """How many messages wait behind positions of partitions, and for how long the longest has `now`, seconds.

    Raises:
        ConnectionFailedError: NATS cannot be reached.
        StreamError: there is no such stream.
    """
    refusals: list[str] = []
    client = await connect(settings, "slate-backlog", refused=refusals.append)
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
                    oldest = max(oldest, now - first.time.timestamp())
    except nats.js.errors.NotFoundError as error:
        raise StreamError(f"the stream {settings.stream} cannot be looked at: {error.description}") from None
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise _unanswered(error, refusals) from None
    finally:
        await client.close()
    return waiting, oldest
