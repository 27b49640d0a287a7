"""The view of `slate up`: a table that renews itself on a terminal, a line every few seconds elsewhere."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.figures import Figures, Today
from deploy.supervisor import Supervised

LINE_EVERY_S = 5.0
EVENTS = 6
"""Latest events shown."""
_REASONS = 8
_FIXED_LINES = 14
"""Lines of the picture that are always there: frame, headings, headline, charts, space between."""
_ALERTS = 3
"""Alerts shown."""
_SEVERITY_STYLE = {"critical": "bold red", "warning": "yellow"}
_BARS = "▁▂▃▄▅▆▇█"
_STATE_STYLE = {"running": "green", "external": "cyan", "finished": "dim", "down": "bold red"}


class View(Protocol):
    """What `slate up` shows its figures with; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def event(self, text: str) -> None: ...  # noqa: D102
    def update(self, parts: Sequence[Supervised], figures: Figures) -> None: ...  # noqa: D102


class LiveView:
    """Draws over itself; leaves the last picture behind and the terminal as it was.

    Args:
        console: a terminal.
        external: name and address of servers that are not ours.
    """

    def __init__(self, console: Console, external: Sequence[tuple[str, str]]) -> None:
        self._console = console
        self._external = external
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._began = time.monotonic()
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def event(self, text: str) -> None:
        """Show that something happened."""
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")

    def update(self, parts: Sequence[Supervised], figures: Figures) -> None:
        """Draw the picture anew."""
        title = f"SPARK on SLATE, {_duration(time.monotonic() - self._began)}; Ctrl-C stops everything"
        content: list[RenderableType] = [_parts_table(parts, self._external), Text(), *_headline(figures), Text()]
        content += [*_today(figures), Text()]
        alerts = _alerts(figures)
        content += alerts
        tables = _tables(figures)
        # what happened comes first: what does not fit is cut at the bottom
        used = len(parts) + len(self._external) + len(alerts) + tables.row_count + _FIXED_LINES
        room = self._console.height - used
        happened = list(self._events)[-max(room, 2) :]
        content += [Text(one, style="yellow", no_wrap=True, overflow="ellipsis") for one in happened]
        if figures.problem:
            content.append(Text(figures.problem, style="red", no_wrap=True, overflow="ellipsis"))
        if happened or figures.problem:
            content.append(Text())
        content.append(tables)
        self._live.update(Panel(Group(*content), title=title, title_align="left", border_style="dim"), refresh=True)


class PlainView:
    """Prints lines: for logs, pipes and terminals without cursor movement."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._next = 0.0

    def __enter__(self) -> Self:
        self._next = time.monotonic() + LINE_EVERY_S
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def event(self, text: str) -> None:
        """Say at once that something happened."""
        self._write(f"{time.strftime('%H:%M:%S')} {text}")

    def update(self, parts: Sequence[Supervised], figures: Figures) -> None:
        """Print a line when it is time for one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            self._write(f"{time.strftime('%H:%M:%S')} {line(parts, figures)}")


def line(parts: Sequence[Supervised], figures: Figures) -> str:
    """Say everything in one line."""
    said = [f"{figures.rate:,.0f} msg/s", f"lag {_number(figures.lag)}"]
    said.append(f"latency p50 {_seconds(figures.latency_p50)} p99 {_seconds(figures.latency_p99)}")
    said.append(f"last commit {_age(figures.commit_age)}")
    rows = ", ".join(f"{_short(name)} {count:,}" for name, count in figures.rows.items())
    said.append(f"rows: {rows or '-'}")
    dead = ", ".join(f"{reason} {count:,}" for reason, count in _most_first(figures.dead_letters))
    said.append(f"dead letters: {dead or 'none'}")
    if figures.today is not None:
        today = figures.today
        tokens = today.tokens_prompt + today.tokens_completion
        said.append(f"today: {tokens:,} tokens, ${today.cost:,.4f}, {_share(today)} of {today.calls:,} calls failed")
    if figures.firing:
        counts = Counter(one.severity for one in figures.firing)
        said.append("alerts: " + ", ".join(f"{count} {severity}" for severity, count in counts.items()))
    down = [one.part.name for one in parts if one.state == "down"]
    said += [f"DOWN: {', '.join(down)}"] if down else []
    restarts = sum(one.restarts for one in parts)
    said += [f"restarts {restarts}"] if restarts else []
    said += [f"LOST {figures.lost:,}"] if figures.lost else []
    said += [figures.problem] if figures.problem else []
    return "; ".join(said)


def sparkline(values: Sequence[float]) -> str:
    """Draw numbers as bars, the largest at full height."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] for value in values)


def _parts_table(parts: Sequence[Supervised], external: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("part", "state", "address"):
        table.add_column(name, no_wrap=True)
    for name in ("pid", "restarts"):
        table.add_column(name, justify="right")
    for name, address in external:
        table.add_row(name, Text("external", style=_STATE_STYLE["external"]), address, "-", "-")
    for one in parts:
        address = f"127.0.0.1:{one.part.port}" if one.part.port else "-"
        restarts = Text(str(one.restarts), style="yellow" if one.restarts else "")
        state = Text(one.state, style=_STATE_STYLE[one.state])
        table.add_row(one.part.name, state, address, str(one.part.pid or "-"), restarts)
    return table


def _headline(figures: Figures) -> list[Text]:
    rate = Text.assemble(("rate ", "dim"), (f"{figures.rate:>9,.0f} msg/s  ", "bold"))
    rate.append(sparkline(figures.history), style="cyan")
    rate.no_wrap, rate.overflow = True, "crop"
    rest = Text.assemble(
        ("lag ", "dim"),
        (_number(figures.lag), "bold"),
        ("   latency p50 ", "dim"),
        (_seconds(figures.latency_p50), "bold"),
        ("  p99 ", "dim"),
        (_seconds(figures.latency_p99), "bold"),
        ("   last commit ", "dim"),
        (_age(figures.commit_age), "bold"),
    )
    counts = Text.assemble(("duplicates ", "dim"), f"{figures.duplicates:,}")
    counts.append("   retries ", style="dim").append(f"{figures.retries:,}")
    counts.append("   lost by retention ", style="dim")
    counts.append(f"{figures.lost:,}", style="bold red" if figures.lost else "")
    return [rate, rest, counts]


def _today(figures: Figures) -> list[Text]:
    """Today's totals, and charts of the last minutes."""
    today = figures.today
    if today is None:
        return []
    total = Text.assemble(
        ("today ", "dim"),
        (f"{today.tokens_prompt:,} + {today.tokens_completion:,}", "bold"),
        (" tokens   ", "dim"),
        (f"${today.cost:,.4f}", "bold"),
        ("   calls ", "dim"),
        (f"{today.calls:,}", "bold"),
        (", failed ", "dim"),
        (_share(today), "bold red" if today.failed else "bold"),
        ("   not counted yet ", "dim"),
        f"{today.behind:,}",
    )
    minutes = figures.minutes
    charts: tuple[tuple[str, Sequence[float], str], ...] = (
        ("calls/min", [one.calls for one in minutes], "cyan"),
        ("failed/min", [one.failed for one in minutes], "red"),
        ("tokens/min", [one.tokens for one in minutes], "cyan"),
        ("p95 ms", [one.p95_ms for one in minutes], "magenta"),
    )
    lines = [total]
    for pair in (charts[:2], charts[2:]):
        drawn = Text()
        for name, values, style in pair:
            latest = values[-1] if values else 0
            drawn.append(f"{name:10} ", style="dim").append(sparkline(values), style=style).append(f" {latest:<9,.0f} ")
        lines.append(drawn)
    for one in lines:
        one.no_wrap, one.overflow = True, "crop"
    return lines


def _alerts(figures: Figures) -> list[Text]:
    """The gravest alerts that fire, each in a line, and how many more there are."""
    grave = [one for one in figures.firing if one.severity != "info"]
    if not figures.firing:
        return []
    lines = [
        Text.assemble((f"{one.severity:9}", _SEVERITY_STYLE.get(one.severity, "")), f"{one.rule}: {one.reason}")
        for one in grave[:_ALERTS]
    ]
    if (more := len(figures.firing) - len(lines)) > 0:
        lines.append(Text(f"{more} more {'alerts' if more > 1 else 'alert'}: `slate alerts list`", style="dim"))
    for one in lines:
        one.no_wrap, one.overflow = True, "ellipsis"
    return [*lines, Text()]


def _share(today: Today) -> str:
    return f"{100 * today.failed / today.calls:.1f} %" if today.calls else "0 %"


def _tables(figures: Figures) -> Table:
    """Rows by table beside dead letters by reason."""
    rows = [(name, f"{count:,}") for name, count in figures.rows.items()]
    most = _most_first(figures.dead_letters)
    shown = most if len(most) <= _REASONS else most[: _REASONS - 1]
    dead = [(reason, f"{count:,}") for reason, count in shown]
    if len(shown) < len(most):
        rest = most[len(shown) :]
        dead.append((f"{len(rest)} other reasons", f"{sum(count for _, count in rest):,}"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("table", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("  dead letters", no_wrap=True)
    table.add_column("", justify="right", style="yellow", no_wrap=True)
    for (name, count), (reason, letters) in zip_longest(rows, dead or [("none", "")], fillvalue=("", "")):
        table.add_row(name, count, f"  {reason}", letters)
    return table


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _short(table: str) -> str:
    return table.removeprefix("spark_")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def _age(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s ago"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
