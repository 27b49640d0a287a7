"""NATS: whether it answers, has the stream, and how much of it waits."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import nats.errors
import nats.js.errors
import psycopg
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AccountInfo, AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

from connectors.errors import SlateError
from connectors.jetstream import (
    TRANSFORM_VERSION,
    check_stream,
    connect,
    partition_filter,
    partition_numbers,
    server_version,
)
from connectors.settings import Settings
from deploy.checks.postgres import connect_postgres, query
from deploy.checks.row import STALE_S, Check, first_line, numbers, size

LARGEST_EVENT: Final = 1 << 20
"""Bytes that the contract allows."""


NEARLY_FULL: Final = 0.8
"""Share of the account's storage above which it is reported: at the limit, NATS refuses events."""


@dataclass(frozen=True)
class Positions:
    """Where the partitions are according to PostgreSQL: sequence and seconds since it moved."""

    seq: dict[int, int]
    age: dict[int, float]


def check_nats(settings: Settings) -> Iterator[Check]:
    """Connection, version, JetStream, stream, lag."""
    return iter(asyncio.run(_check_nats(settings)))


async def _check_nats(settings: Settings) -> list[Check]:
    try:
        client = await connect(settings, "slate-doctor")
    except SlateError as error:
        return [Check("NATS", "fail", first_line(error), "check NATS_URL, or start one with `slate up`")]
    try:
        found = [Check("NATS", "ok", _address(client)), _nats_version(client, settings), _max_payload(client)]
        jetstream = client.jetstream(timeout=5)
        try:
            await jetstream.account_info()
        except (nats.errors.Error, TimeoutError):
            remedy = "add `jetstream {}` to the server's configuration, and allow it to the account of NATS_URL"
            return [*found, Check("JetStream", "fail", "not enabled for us", remedy)]
        found.append(Check("JetStream", "ok", "enabled"))
        problems = await check_stream(settings)
        if problems:
            return [*found, Check("stream", "fail", "; ".join(problems), "run `slate migrate`")]
        found.append(Check("stream", "ok", f"{settings.stream}, {settings.partitions} partitions"))
        found += stream_limits(await jetstream.stream_info(settings.stream), await jetstream.account_info())
        return [*found, await _lag(jetstream, settings)]
    except (SlateError, nats.errors.Error, TimeoutError) as error:
        return [Check("NATS", "fail", f"stopped answering: {type(error).__name__}", "see its log")]
    finally:
        await client.close()


def stream_limits(stream: StreamInfo, account: AccountInfo) -> list[Check]:
    """Whether the stream can fill up: without a limit of its own, near one, or near that of its account; its copies."""
    config, limit = stream.config, account.limits.max_storage
    found = []
    if (config.max_bytes or -1) <= 0 and not config.max_age and limit <= 0:
        found.append(
            Check(
                "stream limits",
                "warn",
                "none: the stream grows until the disk of NATS is full",
                f"nats stream edit {config.name} --max-age 7d, or --max-bytes",
            )
        )
    if limit > 0:
        full = account.storage >= NEARLY_FULL * limit
        told = f"{size(account.storage)} of {size(limit)} used ({account.storage / limit:.0%})"
        remedy = "raise it and max_file_store of the server, or lower max_age of the stream" if full else ""
        found.append(Check("account limits", "warn" if full else "ok", told, remedy))
    if stream.cluster is not None and (replicas := stream.cluster.replicas or []):
        away = [peer.name or "?" for peer in replicas if peer.offline or not peer.current]
        told = f"{len(replicas) + 1}, leader {stream.cluster.leader}"
        if away or stream.cluster.leader is None:
            found.append(
                Check("stream copies", "warn", f"{told}; behind or away: {', '.join(away)}", "see their servers' log")
            )
        else:
            found.append(Check("stream copies", "ok", told))
    return found


def _address(client: Client) -> str:
    url = client.connected_url
    return f"{url.hostname}:{url.port}" if url is not None else "connected"


def _nats_version(client: Client, settings: Settings) -> Check:
    version = server_version(client)
    found = f"NATS {'.'.join(map(str, version))}"
    if settings.partitions > 1 and version < TRANSFORM_VERSION:
        return Check("version", "fail", found, "upgrade it to 2.12 or later, or set SLATE_PARTITIONS=1")
    return Check("version", "ok", found)


def _max_payload(client: Client) -> Check:
    found = f"messages up to {size(client.max_payload)}"
    if client.max_payload < LARGEST_EVENT:
        return Check("message size", "warn", found, "events may have 1 MiB: raise max_payload of the server")
    return Check("message size", "ok", found)


async def _lag(jetstream: JetStreamContext, settings: Settings) -> Check:
    try:
        positions = await asyncio.to_thread(_positions, settings)
    except (psycopg.Error, SlateError):
        return Check("lag", "warn", "unknown: PostgreSQL has no positions", "see PostgreSQL's rows")
    waiting = {}
    for partition in partition_numbers(settings):
        waiting[partition] = await _waiting(jetstream, settings, partition, positions.seq.get(partition, 0))
    behind = {partition: count for partition, count in waiting.items() if count}
    total = sum(behind.values())
    stuck = [one for one in behind if positions.age.get(one, float("inf")) > STALE_S]
    if stuck:
        return Check(
            "lag",
            "warn",
            f"{total:,} messages wait, and nothing was written for a minute in partition {numbers(stuck)}",
            "start a worker: `python -m bytewax.run flows.ingest`; if one runs, see its log",
        )
    return Check("lag", "ok", f"{total:,} messages wait")


def _positions(settings: Settings) -> Positions:
    with connect_postgres(settings) as connection:
        rows = query(connection, "progress", stream=settings.stream)
    return Positions({row["partition"]: row["seq"] for row in rows}, {row["partition"]: row["age"] for row in rows})


async def _waiting(jetstream: JetStreamContext, settings: Settings, partition: int, seq: int) -> int:
    """Ask JetStream how many messages of a partition come after `seq`: a consumer that reads none knows."""
    consumer = await jetstream.add_consumer(
        settings.stream,
        ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            filter_subject=partition_filter(partition),
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            inactive_threshold=5,
        ),
    )
    await jetstream.delete_consumer(settings.stream, consumer.name)
    return int(consumer.num_pending or 0)
