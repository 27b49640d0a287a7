"""What `slate simulate` shows: progress while it runs, and what it did at the end."""

from time import monotonic
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from realtime.paced import Tally

_REFRESH_S: Final = 0.1
_LINE_EVERY_S: Final = 10.0


class Acknowledges(Protocol):
    """What this shows of `connectors.publisher.Publisher`."""

    acknowledged: int
    duplicates: int


class Display:
    """A bar on a terminal, a line every ten seconds anywhere else; a context manager.

    Args:
        console: where.
        total: messages to come, None for no end.
        tally: what was published.
        publisher: what was acknowledged.
    """

    def __init__(self, console: Console, total: int | None, tally: Tally, publisher: Acknowledges) -> None:
        self._console = console
        self._tally = tally
        self._publisher = publisher
        self._begun = monotonic()
        self._next = self._begun + (_REFRESH_S if console.is_terminal else _LINE_EVERY_S)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("publishing", total=total, rate=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return monotonic() - self._begun

    def update(self) -> None:
        """Show what is new, if it is time to."""
        now = monotonic()
        if now < self._next:
            return
        published = self._tally.published
        rate = published / (now - self._begun)
        if self._console.is_terminal:
            self._next = now + _REFRESH_S
            self._bar.update(self._task, completed=published, rate=rate)
        else:
            self._next = now + _LINE_EVERY_S
            self._console.print(
                f"{published:,} published, {self._publisher.acknowledged:,} acknowledged, {rate:,.0f}/s"
            )


def summary(tally: Tally, publisher: Acknowledges, seconds: float) -> Group:
    """What was published, by kind, and how it was acknowledged."""
    kinds = Table("kind", box=None, pad_edge=False)
    kinds.add_column("messages", justify="right")
    for kind, number in sorted(tally.kinds.items(), key=lambda item: -item[1]):
        kinds.add_row(kind, f"{number:,}")
    lines = [
        f"published {tally.published:,} messages in {seconds:.1f} s ({tally.published / seconds:,.0f}/s), "
        f"{tally.repeats:,} of them repeats",
        f"acknowledged {publisher.acknowledged:,}, of which JetStream knew {publisher.duplicates:,} already",
    ]
    missing = tally.published - publisher.acknowledged
    if missing:
        lines.append(f"{missing:,} were not acknowledged: they may or may not be stored")
    if tally.ack_seconds:
        slowest = sorted(tally.ack_seconds)
        p50, p99 = (1000 * slowest[int(share * (len(slowest) - 1))] for share in (0.5, 0.99))
        lines.append(f"time to acknowledgement: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(slowest):,} samples)")
    return Group(kinds, *lines)
