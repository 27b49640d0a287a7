"""What waits for a writer is bounded, written in order, and a writer's failure is told once."""

import threading
from collections.abc import Callable

import pytest

from connectors.background import BackgroundSink
from connectors.shutdown import Shutdown
from tests.support.waiting import eventually

Item = tuple[int, int]
"""Messages and bytes."""


def sink(
    write: Callable[[list[Item]], None], most: Item = (10, 1000), shutdown: Shutdown | None = None
) -> BackgroundSink[Item]:
    """A sink whose groups are full at 10 messages or 1,000 bytes."""
    return BackgroundSink(write, lambda item: item, (10, 1000), shutdown or Shutdown(), close=lambda: None)


@pytest.mark.parametrize("item", [(1, 0), (1, 300), (0, 300)], ids=["messages", "both", "bytes"])
def test_no_more_waits_than_fills_two_groups_in_messages_or_bytes(item: Item) -> None:
    free, taken = threading.Event(), threading.Event()
    written: list[Item] = []

    def write(group: list[Item]) -> None:
        taken.set()
        free.wait()
        written.extend(group)

    one = sink(write)
    one.write_batch([item])
    assert taken.wait(5)
    handed = []

    def hand_over() -> None:
        for _ in range(100):
            one.write_batch([item])
            handed.append(item)

    thread = threading.Thread(target=hand_over, daemon=True)
    thread.start()
    most = min(20 if item[0] else 100, -(-2000 // item[1]) if item[1] else 100)
    eventually(lambda: len(handed) >= most, 5)
    thread.join(0.2)
    assert len(handed) == most
    free.set()
    thread.join(5)
    one.close()
    assert len(written) == 101


def test_more_items_at_a_time_than_fill_two_groups_wake_a_writer_that_waits() -> None:
    written: list[Item] = []
    one = sink(written.extend)
    thread = threading.Thread(target=one.write_batch, args=([(10, 0)] * 9,), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    one.close()
    assert len(written) == 9


def test_a_failure_is_raised_once_and_asks_the_process_to_end() -> None:
    shutdown = Shutdown()

    def write(group: list[Item]) -> None:
        raise ValueError("no")

    one = sink(write, shutdown=shutdown)
    one.write_batch([(1, 1)])
    eventually(lambda: shutdown.requested, 5)
    with pytest.raises(ValueError, match="no"):
        one.write_batch([(1, 1)])
    one.close()  # Bytewax closes what has raised; a second error then would abort the process


def test_a_failure_nobody_has_heard_of_is_raised_when_it_is_closed() -> None:
    def write(group: list[Item]) -> None:
        raise ValueError("no")

    one = sink(write)
    one.write_batch([(1, 1)])
    with pytest.raises(ValueError, match="no"):
        one.close()
