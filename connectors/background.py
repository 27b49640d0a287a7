"""A Bytewax sink partition whose writing goes on beside the dataflow, on a thread of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from bytewax.outputs import StatelessSinkPartition

from connectors.errors import SlateError
from connectors.health import HEALTH
from connectors.shutdown import Shutdown

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class BackgroundSink(StatelessSinkPartition[T], Generic[T]):
    """Collects items while the last group of them is being written.

    Args:
        write: writes a group; called on the thread.
        weigh: the size of an item, in messages and bytes.
        most: at which messages and bytes a group is full.
        shutdown: requested when writing failed for good.
        every: least seconds between the starts of two groups, unless one is full; 0 writes what is there.
        close: called on the thread when it ends.
    """

    def __init__(
        self,
        write: Callable[[list[T]], None],
        weigh: Callable[[T], tuple[int, int]],
        most: tuple[int, int],
        shutdown: Shutdown,
        *,
        every: float = 0.0,
        close: Callable[[], None],
    ) -> None:
        self._write = write
        self._weigh = weigh
        self._most, self._most_bytes = most
        self._shutdown = shutdown
        self._every = every
        self._close = close
        self._queue: deque[tuple[T, int, int]] = deque()
        self._queued = self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        self._raised = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def write_batch(self, items: list[T]) -> None:
        """Queue items; blocks while as many wait as fill two groups."""
        with self._changed:
            for item in items:
                while self._is_full(2) and self._error is None:
                    HEALTH.rest("dataflow")  # it waits for the writer, who has a pulse of its own
                    self._changed.notify_all()  # who may not have heard of these items yet
                    self._changed.wait()
                    HEALTH.beat("dataflow")
                self._raise()
                messages, size = self._weigh(item)
                self._queue.append((item, messages, size))
                self._queued += messages
                self._queued_bytes += size
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        HEALTH.rest("dataflow")
        self._thread.join()
        self._raise()

    def _is_full(self, groups: int) -> bool:
        return self._queued >= groups * self._most or self._queued_bytes >= groups * self._most_bytes

    def _raise(self) -> None:
        """Raise once: Bytewax closes what has raised, and a second error then would abort the process."""
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _run(self) -> None:
        try:
            begun = 0.0
            while group := self._next_group(begun + self._every):
                begun = time.monotonic()
                HEALTH.beat("writer")
                self._write(group)
                HEALTH.rest("writer")
        except BaseException as error:  # noqa: BLE001 - the dataflow's thread must hear of it, whatever it is
            if isinstance(error, SlateError):
                _log.error("writer stopped", error=str(error))
            else:
                _log.exception("writer stopped")
            with self._changed:
                self._error = error
                self._changed.notify_all()
            self._shutdown.request()
        finally:
            HEALTH.rest("writer")
            self._close()

    def _next_group(self, not_before: float) -> list[T]:
        """What came meanwhile, up to the limits; empty at the end."""
        with self._changed:
            while not self._closing:
                if not self._queue:
                    self._changed.wait()
                elif not self._is_full(1) and (early := not_before - time.monotonic()) > 0:
                    self._changed.wait(early)
                else:
                    break
            group: list[T] = []
            messages = size = 0
            while self._queue and messages < self._most and size < self._most_bytes:
                item, its_messages, its_size = self._queue.popleft()
                group.append(item)
                messages += its_messages
                size += its_size
            self._queued -= messages
            self._queued_bytes -= size
            self._changed.notify_all()
            return group
