"""The single checks of `slate doctor`: each gives rows of a table, and never raises for what it finds."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import nats.errors
import nats.js.errors
import psycopg
import redis
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from redis.backoff import NoBackoff
from redis.retry import Retry

from connectors.errors import SlateError
from connectors.jetstream import (
    TRANSFORM_VERSION,
    check_stream,
    connect,
    partition_filter,
    partition_numbers,
    server_version,
)
from connectors.schema import pending
from connectors.settings import Settings
from connectors.sql import read
from connectors.webhooks import usable
from deploy.embedded import port_is_free
from deploy.figures import scrape
from flows.alert_rules import load

OLDEST_POSTGRESQL = 14
LARGEST_EVENT = 1 << 20
"""Bytes that the contract allows."""
STALE_S = 60.0
"""A partition that has messages to write and was not written for so long has no worker."""
DISK_FAIL, DISK_WARN = 1 << 30, 5 << 30
"""Free bytes below which a local disk is reported."""

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it is, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Positions:
    """Where the partitions are according to PostgreSQL: sequence and seconds since it moved."""

    seq: dict[int, int]
    age: dict[int, float]


def check_postgres(settings: Settings) -> Iterator[Check]:
    """Connection, version, schema, permissions, partitions, size."""
    try:
        connection = _connect_postgres(settings)
    except SlateError as error:
        yield Check("PostgreSQL", "fail", "no address", str(error))
        return
    except psycopg.Error as error:
        remedy = (
            "check that it runs, and SLATE_DB_HOST, SLATE_DB_PORT, SLATE_DB_NAME, SLATE_DB_USER and "
            "SLATE_DB_PASSWORD; or start one with `slate up`"
        )
        yield Check("PostgreSQL", "fail", _first_line(error), remedy)
        return
    address = f"{settings.db_user}@{settings.db_host}:{settings.db_port}/{settings.db_name}"
    yield Check("PostgreSQL", "ok", address)
    try:
        with connection:
            yield from _examine_database(connection, settings)
    except psycopg.Error as error:
        yield Check("PostgreSQL", "fail", f"stopped answering: {_first_line(error)}", "see its log")


def _examine_database(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    yield _postgres_version(connection)
    yield from _postgres_server(connection)
    for section in (_schema(settings), _permissions(connection)):
        for check in section:
            yield check
            if check.state == "fail":
                return  # what follows would only repeat it
    yield _months(connection)
    yield from _lost(connection, settings)
    yield _rollups(connection, settings)
    yield from _deliveries(connection, settings)


def _connect_postgres(settings: Settings) -> psycopg.Connection[DictRow]:
    dsn = settings.dsn(connect_timeout=3, application_name="slate doctor", options="-c statement_timeout=5s")
    return psycopg.connect(make_conninfo("", **dsn), autocommit=True, row_factory=dict_row)


def _query(connection: psycopg.Connection[DictRow], name: str, **arguments: Any) -> list[DictRow]:
    return connection.execute(read(f"doctor/{name}.sql").encode(), arguments or None).fetchall()


def _postgres_version(connection: psycopg.Connection[DictRow]) -> Check:
    major, minor = divmod(connection.info.server_version, 10_000)
    found = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_POSTGRESQL:
        return Check("version", "fail", found, f"upgrade it to {OLDEST_POSTGRESQL} or later")
    return Check("version", "ok", found)


def _postgres_server(connection: psycopg.Connection[DictRow]) -> Iterator[Check]:
    (server,) = _query(connection, "server")
    if server["standby"]:
        yield Check("primary", "fail", "this is a standby: read only", "point SLATE_DB_HOST to the primary")
    if not server["durable"]:
        yield Check("durability", "warn", "fsync is off: a crash may damage the database", "set fsync = on")
    yield Check("database size", "ok", _bytes(server["bytes"]))


def _schema(settings: Settings) -> Iterator[Check]:
    try:
        missing = pending(settings)
    except SlateError as error:
        yield Check("schema", "fail", _first_line(error), "run `slate migrate`")
        return
    if missing:
        yield Check("schema", "fail", f"not applied: {', '.join(missing)}", "run `slate migrate`")
    else:
        yield Check("schema", "ok", "all migrations are applied")


def _permissions(connection: psycopg.Connection[DictRow]) -> Iterator[Check]:
    missing = [row["missing"] for row in _query(connection, "permissions")]
    if missing:
        shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more" if len(missing) > 5 else "")
        yield Check("permissions", "fail", f"missing: {shown}", "grant them to the role of SLATE_DB_USER")
    else:
        yield Check("permissions", "ok", "the role may do what a worker does")


def _months(connection: psycopg.Connection[DictRow]) -> Check:
    missing = [row["missing"] for row in _query(connection, "months")]
    if missing:
        return Check("partitions", "warn", f"missing: {', '.join(missing)}", "run `slate migrate`, which adds them")
    return Check("partitions", "ok", "spark_events has this month and the next")


def _lost(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    # Sequences are of the stream, so every partition reports the same gap.
    lost = max((row["lost"] for row in _query(connection, "progress", stream=settings.stream)), default=0)
    if lost:
        yield Check(
            "retention",
            "warn",
            f"up to {lost:,} messages left the stream before they were read",
            "give the stream more room (max_age, max_bytes), and see slate.gaps for which ones",
        )


def _rollups(connection: psycopg.Connection[DictRow], settings: Settings) -> Check:
    (found,) = _query(connection, "rollups", stream=settings.stream)
    behind, age = found["behind"], found["age"]
    remedy = "start `python -m bytewax.run flows.rollups`; if it runs, see its log"
    if behind and age is None:
        return Check("rollups", "warn", f"{behind:,} stored messages, and none was ever counted", remedy)
    if behind and age > STALE_S:
        return Check("rollups", "warn", f"{behind:,} stored messages are not counted, for {age:,.0f} s now", remedy)
    return Check("rollups", "ok", f"{behind:,} stored messages are not counted yet")


def check_alerts(settings: Settings) -> Iterator[Check]:
    """The rules file and its receivers."""
    try:
        rules = load(settings.alert_rules_file)
        receivers = usable(settings, rules.receivers)
    except SlateError as error:
        yield Check("alert rules", "fail", _first_line(error), "`slate alerts check` says all that is wrong")
        return
    told = ", ".join(receiver.name for receiver in receivers) or "nobody"
    yield Check("alert rules", "ok", f"{len(rules.rules)} rules, {len(rules.budgets)} budgets; told to {told}")


def _deliveries(connection: psycopg.Connection[DictRow], settings: Settings) -> Iterator[Check]:
    remedy = "check its address and secret; `slate alerts list` shows what became of each alert"
    for row in _query(connection, "alerts", stream=settings.stream):
        if row["waiting"] or row["lost"]:
            found = (
                f"{row['waiting']:,} alerts wait for minutes, {row['lost']:,} of a day never arrived: {row['error']}"
            )
            yield Check(f"receiver {row['receiver']}", "warn", found, remedy)


def check_disk(settings: Settings) -> Iterator[Check]:
    """Free space below SLATE_DIR, where `slate up` keeps its servers."""
    directory = settings.dir.absolute()
    if not (directory / "lock").exists():
        return
    free = shutil.disk_usage(directory).free
    state: State = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
    remedy = "" if state == "ok" else "free some, or set SLATE_DIR to a directory on a larger disk"
    yield Check("disk", state, f"{_bytes(free)} free for {directory}", remedy)


def check_nats(settings: Settings) -> Iterator[Check]:
    """Connection, version, JetStream, stream, lag."""
    return iter(asyncio.run(_check_nats(settings)))


async def _check_nats(settings: Settings) -> list[Check]:
    try:
        client = await connect(settings, "slate-doctor")
    except SlateError as error:
        return [Check("NATS", "fail", _first_line(error), "check NATS_URL, or start one with `slate up`")]
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
        return [*found, await _lag(jetstream, settings)]
    except (SlateError, nats.errors.Error, TimeoutError) as error:
        return [Check("NATS", "fail", f"stopped answering: {type(error).__name__}", "see its log")]
    finally:
        await client.close()


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
    found = f"messages up to {_bytes(client.max_payload)}"
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
            f"{total:,} messages wait, and nothing was written for a minute in partition {_list(stuck)}",
            "start a worker: `python -m bytewax.run flows.ingest`; if one runs, see its log",
        )
    return Check("lag", "ok", f"{total:,} messages wait")


def _positions(settings: Settings) -> Positions:
    with _connect_postgres(settings) as connection:
        rows = _query(connection, "progress", stream=settings.stream)
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


def check_redis(settings: Settings) -> Iterator[Check]:
    """Whether Redis or Valkey answers; ingest works without."""
    if settings.redis_host is None:
        yield Check("Redis", "warn", "no address", "set REDIS_HOST, or start one with `slate up`")
        return
    address = f"{settings.redis_host}:{settings.redis_port}"
    try:
        with redis.Redis(
            ssl=settings.redis_tls,
            **settings.redis_login(),
            socket_timeout=3,
            socket_connect_timeout=3,
            retry=Retry(NoBackoff(), retries=0),
        ) as client:
            client.ping()
    except redis.RedisError as error:
        yield Check("Redis", "warn", _first_line(error), "check REDIS_HOST and REDIS_PORT, and that it runs")
    else:
        yield Check("Redis", "ok", address)


def check_metrics(settings: Settings) -> Iterator[Check]:
    """Whether a worker of this machine answers on the metrics port."""
    port = settings.metrics_port
    if not port:
        yield Check("metrics", "ok", "switched off by SLATE_METRICS_PORT=0")
    elif scrape(port) is not None:
        yield Check("metrics", "ok", f"http://127.0.0.1:{port}/metrics")
    elif port_is_free(port):
        yield Check(
            "metrics",
            "warn",
            f"nobody answers on port {port}",
            "start a worker, or set SLATE_METRICS_PORT to its port",
        )
    else:
        yield Check(
            "metrics",
            "warn",
            f"port {port} belongs to another program",
            "set SLATE_METRICS_PORT to a free port; else a worker chooses one and says so in its log",
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
