"""What `slate up` shows."""

import io
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from deploy.figures import Figures, Minute, Today
from deploy.live import LiveView, PlainView, line, sparkline
from deploy.supervisor import Program, Supervised

FIGURES = Figures(
    rate=1234.4,
    history=(0, 500, 1000),
    lag=42,
    latency_p50=0.0042,
    latency_p99=1.5,
    commit_age=0.26,
    rows={"spark_events": 1_000_000, "spark_usage": 5},
    dead_letters={"nul": 1, "not_json": 12},
)


def part(name: str, restarts: int = 0) -> Supervised:
    return Supervised(Program(name, ["true"], environment={}, log=Path("log"), port=9090), restarts=restarts)


def test_a_line_says_everything() -> None:
    said = line([part("ingest", restarts=2)], FIGURES)
    assert said == (
        "1,234 msg/s; lag 42; latency p50 4.2 ms p99 1.5 s; last commit 0.3 s ago; "
        "rows: events 1,000,000, usage 5; dead letters: not_json 12, nul 1; DOWN: ingest; restarts 2"
    )


def test_a_line_without_anything_to_say_is_calm() -> None:
    assert line([], Figures()) == ("0 msg/s; lag -; latency p50 - p99 -; last commit -; rows: -; dead letters: none")


TODAY = Today(12_000, 345, Decimal("1.23456"), 456, 15, 7)


def test_a_line_says_what_today_came_to() -> None:
    assert line([], Figures(today=TODAY)).endswith("today: 12,345 tokens, $1.2346, 3.3 % of 456 calls failed")
    quiet = Today(0, 0, Decimal(0), 0, 0, 0)
    assert line([], Figures(today=quiet)).endswith("today: 0 tokens, $0.0000, 0 % of 0 calls failed")


def test_the_picture_shows_today_and_charts_of_the_last_minutes() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=40, color_system=None)
    minutes = [Minute(10 * n, n, 1000 * n, 250.0 * n) for n in range(5)]
    with LiveView(console, []) as view:
        view.update([], Figures(today=TODAY, minutes=minutes))
    drawn = file.getvalue()
    for text in ("12,000 + 345 tokens", "$1.2346", "failed 3.3 %", "not counted yet 7", "calls/min", "p95 ms", "1,000"):
        assert text in drawn
    assert sparkline([0, 10, 20, 30, 40]) in drawn


def test_problems_and_losses_stand_out() -> None:
    said = line([], Figures(lost=3, problem="PostgreSQL cannot be read"))
    assert "LOST 3" in said
    assert said.endswith("PostgreSQL cannot be read")


def test_a_sparkline_has_the_largest_value_at_full_height() -> None:
    assert sparkline([0, 50, 100]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10)])
def test_the_picture_fits_the_terminal(size: tuple[int, int]) -> None:
    output = io.StringIO()
    width, height = size
    console = Console(file=output, force_terminal=True, width=width, height=height, color_system=None)
    with LiveView(console, [("NATS", "nats.example:4222")]) as view:
        for number in range(20):
            view.event(f"event {number}")
        view.update([part("PostgreSQL"), part("ingest")], FIGURES)
        drawn = output.getvalue()
    lines = drawn.splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width + len("\x1b[?25l")
    if height >= 24:
        assert "event 19" in drawn
    if size == (200, 60):
        for wanted in ("nats.example:4222", "external", "down", "1,234 msg/s", "4.2 ms", "1,000,000", "not_json"):
            assert wanted in drawn


def test_the_plain_view_prints_events_at_once_and_figures_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("deploy.live.time.monotonic", lambda: now[0])
    said: list[str] = []
    with PlainView(said.append) as view:
        view.event("ingest ended")
        for _ in range(100):
            now[0] += 0.25
            view.update([], FIGURES)
    assert "ingest ended" in said[0]
    assert len(said) == 1 + 5
