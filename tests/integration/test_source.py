"""The source alone: what it says of a partition while it reads it."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from connectors.nats import NatsSource, NatsSourcePartition
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState
from deploy.servers import NatsServer
from tests.support.outbox import through
from tests.support.proxy import Proxy
from tests.support.traffic import Traffic, last_sequence
from tests.support.waiting import eventually

MESSAGES = 4000


class Beginning:
    """Every partition is read from the beginning of the stream."""

    def start(self, partition: int, state: StreamState) -> int:
        return 0

    def gap(self, partition: int, first: int, last: int) -> None:
        raise AssertionError(f"{first} to {last} of partition {partition} are there")

    def newest(self, state: StreamState) -> None:
        """Nothing was read before."""

    def put_back(self, state: StreamState, last: int) -> None:
        raise AssertionError(f"all after {last} is there")


@pytest.fixture
def build(settings: Settings, nats_server: NatsServer) -> Iterator[Callable[[], list[NatsSourcePartition]]]:
    """Builds all partitions of a source whose way to the server is slow."""
    shutdown = Shutdown()
    built: list[NatsSourcePartition] = []
    with Proxy(nats_server.port) as proxy:
        proxy.delay_s = 0.02
        slow = through(settings, proxy, nats_server).model_copy(update={"queue_messages": 1})  # asks again and again

        def parts() -> list[NatsSourcePartition]:
            source = NatsSource(slow, "ingest", Beginning(), shutdown)
            built.extend(source.build_part("in", key, None) for key in source.list_parts())
            return built

        yield parts
        shutdown.request()
        if built:
            built[0]._reader._thread.stop()


def test_no_partition_is_drained_before_its_last_message_is_handed_over(
    settings: Settings, build: Callable[[], list[NatsSourcePartition]]
) -> None:
    """Who takes event time for gone past a drained partition would call late what it hands over next."""
    with Traffic(settings, MESSAGES, rate=50_000):
        pass
    last = asyncio.run(last_sequence(settings))
    parts = build()
    taken = dict.fromkeys(parts, 0)
    drained: set[tuple[NatsSourcePartition, int]] = set()

    def read_on() -> bool:
        for part in parts * 20:
            drained.update((part, taken[part]) for part in parts if part.drained)
            taken[part] += sum(len(batch.messages) for batch in part.next_batch())
        return len({part for part, _ in drained}) == len(parts)

    eventually(read_on, 30)
    assert sum(taken.values()) == last
    assert drained == set(taken.items())
