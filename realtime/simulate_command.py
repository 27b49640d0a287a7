"""`slate simulate`: made-up sessions, or a recorded trace, published to JetStream at a chosen pace."""

import asyncio
import math
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from connectors.publisher import Publisher
from connectors.settings import Settings
from flows.events import EARLIEST_MS, MAX_AHEAD_MS
from realtime.paced import Tally, publish_paced
from realtime.prices import MODELS
from realtime.scenario import FUNCTIONS
from realtime.simulate_display import Display, summary
from realtime.simulator import Plan, SimulatedEvent, events
from realtime.traces import read, usage_events

_EARLIEST = datetime.fromtimestamp(EARLIEST_MS / 1000, UTC)
_MOST_AHEAD = timedelta(milliseconds=MAX_AHEAD_MS)
_GRACE_S = 3.0
"""How long messages that are under way may take to be acknowledged after Ctrl-C."""
_ONLY_SESSIONS = ("rate", "invalid", "duplicates", "seed", "start", "outage", "outage_after", "outage_seconds")
_ONLY_TRACE = ("speed", "shift_to_now", "model")


class _Traffic(NamedTuple):
    """What to publish, and how many messages that is (None: no end)."""

    events: Iterator[SimulatedEvent]
    total: int | None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number to count with")
    return value


def _above_zero(value: float) -> float:
    if not _finite(value) > 0:
        raise typer.BadParameter("must be above 0")
    return value


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time like 2026-03-01T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _priced(model: str) -> str:
    if model not in MODELS:
        raise typer.BadParameter(f"{model!r} has no price; choose one of {', '.join(MODELS)}")
    return model


def simulate(
    ctx: typer.Context,
    *,
    sessions: Annotated[int, typer.Option(min=1, max=100_000, help="Sessions open at a time.")] = 20,
    rate: Annotated[
        float, typer.Option(callback=_above_zero, help="Messages a second, all sessions together.")
    ] = 200.0,
    seconds: Annotated[
        float,
        typer.Option(min=0, callback=_finite, help="How long; 0 is until Ctrl-C or the end of the trace."),
    ] = 0.0,
    messages: Annotated[int, typer.Option(min=0, help="How many messages at most; 0 is no limit.")] = 0,
    invalid: Annotated[
        float,
        typer.Option(min=0, max=1, callback=_finite, help="Share of messages that the contract refuses."),
    ] = 0.0,
    duplicates: Annotated[
        float,
        typer.Option(min=0, max=1, callback=_finite, help="Share of messages that repeat an earlier one."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed and start give the same messages.")] = 0,
    outage: Annotated[
        str, typer.Option(help=f"A function whose calls all fail for a time: {', '.join(FUNCTIONS)}.")
    ] = "",
    outage_after: Annotated[
        float, typer.Option(min=0, callback=_finite, help="With --outage: when that begins, seconds.")
    ] = 0.0,
    outage_seconds: Annotated[
        float, typer.Option(min=0, callback=_finite, help="With --outage: how long it lasts.")
    ] = 60.0,
    start: Annotated[
        datetime | None,
        typer.Option(parser=_time, metavar="ISO-TIME", help="Event time of the first message; now if not given."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Replay a CSV of TIMESTAMP,ContextTokens,GeneratedTokens as usage events instead.",
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(callback=_above_zero, help="With --trace: how many times as fast as it happened.")
    ] = 1.0,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="With --trace: let it happen now, as new events.")
    ] = False,
    model: Annotated[str, typer.Option(callback=_priced, help="With --trace: model of the usage events.")] = MODELS[0],
) -> None:
    """Publish simulated sessions over the whole contract, or replay a recorded trace."""
    now = datetime.now(UTC)
    if trace is not None:
        _refuse_given(ctx, _ONLY_SESSIONS, "without")
        traffic = _replay(
            trace,
            speed=speed,
            model=model,
            sessions=sessions,
            start=now if shift_to_now else None,
            seconds=seconds,
            messages=messages,
        )
    else:
        _refuse_given(ctx, _ONLY_TRACE, "with")
        if invalid + duplicates > 1:
            raise typer.BadParameter("is more than 1 together with --invalid", param_hint="'--duplicates'")
        if outage and outage not in FUNCTIONS:
            raise typer.BadParameter(f"must be one of {', '.join(FUNCTIONS)}", param_hint="'--outage'")
        if start is not None and not _EARLIEST <= start <= now + _MOST_AHEAD:
            raise typer.BadParameter(
                "the contract refuses events before 2020 or more than 5 minutes ahead", param_hint="'--start'"
            )
        plan = Plan(
            start=start or now,
            sessions=sessions,
            rate=rate,
            seconds=seconds,
            messages=messages,
            invalid=invalid,
            duplicates=duplicates,
            seed=seed,
            outage=outage,
            outage_after=outage_after,
            outage_seconds=outage_seconds,
        )
        traffic = _Traffic(events(plan), plan.total)
    asyncio.run(_publish(Settings.load(), traffic, Console()))


def _refuse_given(ctx: typer.Context, names: tuple[str, ...], need: str) -> None:
    """Refuse options that would be ignored."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = f"'--{name.replace('_', '-')}'"
            raise typer.BadParameter(f"means something only {need} --trace", param_hint=option)


def _replay(
    trace: Path,
    *,
    speed: float,
    model: str,
    sessions: int,
    start: datetime | None,
    seconds: float,
    messages: int,
) -> _Traffic:
    def replayed() -> Iterator[SimulatedEvent]:
        made = usage_events(read(trace), speed=speed, model=model, sessions=sessions, start=start)
        for number, event in enumerate(made):
            if (messages and number >= messages) or (seconds and event.due > seconds):
                return
            yield event

    # Read it to the end first: a bad last line is found before the first one is published.
    earliest = min((request.at for request in read(trace)), default=_EARLIEST)
    if start is None and earliest < _EARLIEST:
        raise typer.BadParameter(
            "has requests from before 2020, which the contract refuses; use --shift-to-now",
            param_hint="'--trace'",
        )
    return _Traffic(replayed(), sum(1 for _ in replayed()))


async def _publish(settings: Settings, traffic: _Traffic, console: Console) -> None:
    """Publish until the end, or until a signal.

    Raises:
        typer.Exit: a signal came; its code is 130 for Ctrl-C.
        ConnectionFailedError: NATS cannot be reached.
        PublishError: JetStream did not acknowledge a message.
    """
    tally, stop = Tally(), asyncio.Event()
    async with await Publisher.connect(settings, name="slate-simulate") as publisher:
        signals = _Signals(stop)
        display = Display(console, traffic.total, tally, publisher)
        try:
            with display:
                await publish_paced(traffic.events, publisher, tally, stop, display.update)
        except asyncio.CancelledError:
            if not signals.code:
                raise
        finally:
            signals.close()
            console.print(summary(tally, publisher, display.elapsed))
        if signals.code:
            raise typer.Exit(signals.code)


class _Signals:
    """Ctrl-C and SIGTERM set `stop`, and a little later cancel the task; a second one ends it at once."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.code = 0
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._came, number)

    def close(self) -> None:
        """Cancel no more, and give the signals back."""
        if self._timer is not None:
            self._timer.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)

    def _came(self, number: signal.Signals) -> None:
        self.close()
        self.code = 128 + number
        self._stop.set()
        self._timer = self._loop.call_later(_GRACE_S, self._cancel)

    def _cancel(self) -> None:
        # Again and again: nats-py turns a cancellation while it waits for room into an error of its own.
        if self._task is not None:
            self._task.cancel()
        self._timer = self._loop.call_later(0.1, self._cancel)
