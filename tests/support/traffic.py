"""Traffic with an oracle: a publisher on a thread of its own, and the list of what JetStream acknowledged."""

import asyncio
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import psycopg

from connectors.jetstream import connect
from connectors.publisher import Publisher
from connectors.settings import Settings
from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent
from tests.support.oracle import assert_tables_equal
from tests.support.roles import acting
from tests.support.waiting import eventually


class Traffic:
    """Publishes `count` messages of the benchmark's mix, or `events`, while the body of a `with` runs, `rate` a second.

    Each is sent again until it is acknowledged, so at the end `events` is exactly what the stream was given.
    """

    def __init__(
        self,
        settings: Settings,
        count: int = 0,
        *,
        rate: float,
        seed: int = 0,
        events: Iterable[SimulatedEvent] | None = None,
    ) -> None:
        self._settings = acting(settings, "publisher")
        self._rate = rate
        self.events = list(bench_mix(count, seed=seed) if events is None else events)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

    @property
    def running(self) -> bool:
        """Whether something is still to be published."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Publish no more, and wait until what was published is acknowledged; `events` is that, then."""
        assert self.running, "all was published before"
        self._stopped = True
        self.wait()

    def wait(self, timeout: float = 180.0) -> None:
        """Wait until everything is acknowledged.

        Raises:
            PublishError: something was not.
        """
        self._thread.join(timeout)
        assert not self.running, "the publisher hangs"
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # noqa: BLE001 - raised again by `wait`
            self._error = error

    async def _publish(self) -> None:
        async with await Publisher.connect(self._settings, name="test-traffic", max_pending=512) as publisher:
            start = asyncio.get_running_loop().time()
            for number, event in enumerate(self.events):
                if self._stopped:
                    del self.events[number:]
                    return
                ahead = number / self._rate - (asyncio.get_running_loop().time() - start)
                if ahead > 0.01:
                    await asyncio.sleep(ahead)  # paces; nothing waits for it
                await publisher.publish(event.subject, event.payload, msg_id=event.msg_id)


async def last_sequence(settings: Settings) -> int:
    """The sequence of the newest message in the stream."""
    client = await connect(settings, "test-oracle")
    try:
        info = await client.jetstream().stream_info(settings.stream)
        return int(info.state.last_seq)
    finally:
        await client.close()


def assert_drained_exactly_once(
    connection: psycopg.Connection, settings: Settings, events: list[SimulatedEvent], timeout: float = 60.0
) -> None:
    """Wait until the stream is read whole; then every table equals the oracle and the ledger balances."""
    last = asyncio.run(last_sequence(settings))

    def account() -> tuple[int, int, int, int]:
        row = connection.execute(
            "SELECT sum(read)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(dead_lettered)::bigint "
            "FROM slate.ledger WHERE stream = %s",
            (settings.stream,),
        ).fetchone()
        return row if row and row[0] is not None else (0, 0, 0, 0)

    eventually(lambda: account()[0] >= last, timeout, what=f"the ledger's account of {last} messages")
    read, stored, duplicate, dead = account()
    assert read == last == stored + duplicate + dead
    assert dead == sum(not event.valid for event in events)
    assert stored == sum(event.valid for event in events)
    assert_tables_equal(connection, events)
