"""The terminal of a session: reads lines, shows what happens."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

from rich.console import Console
from rich.markup import escape

from connectors.errors import SlateError
from connectors.settings import Settings
from realtime.backend import Backend
from realtime.happenings import CallEnded, CallStarted, Failed, Happening, Reconnected, TextDelta, TurnEnded
from realtime.modes import Mode
from realtime.session import SparkRealtimeSession
from realtime.terminal import local_authority, token_of

HELP: Final = "/cancel  /health  /help  /quit; anything else is said to the model"


async def hold(
    settings: Settings, user: str, model: str, mode: Mode | None, project: str | None, say: list[str] | None
) -> None:
    """Hold a session of a user; `say` instead of what is typed.

    Raises:
        SlateError: it cannot begin.
    """
    console = Console(highlight=False)
    authenticator, secret = local_authority(settings)
    async with Backend(settings, authenticator=authenticator) as backend:
        made = SparkRealtimeSession(
            token=token_of(settings, secret, user), model=model, mode=mode, project=project, backend=backend
        )
        async with made:
            terminal = _Terminal(console, made)
            console.print(
                f"Session {made.session_id} of user {user}, {made.model}, {made.mode}", markup=False, soft_wrap=True
            )
            if say is None and sys.stdin.isatty():
                console.print(HELP, markup=False)
            await terminal.run(_lines(say))


async def _lines(say: list[str] | None) -> AsyncIterator[str]:
    if say is not None:
        for text in say:
            yield text
        return
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            yield line.decode(errors="replace").strip()
    finally:
        transport.close()


class _Terminal:
    def __init__(self, console: Console, made: SparkRealtimeSession) -> None:
        self._console = console
        self._session = made
        self._turn: asyncio.Task[TurnEnded] | None = None
        self._in_text = False
        self._interactive = sys.stdin.isatty()

    async def run(self, lines: AsyncIterator[str]) -> None:
        """Say each line, and show what happens, until the lines end or the user wants no more."""
        show = asyncio.create_task(self._show())
        reading = asyncio.create_task(self._read(lines))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, reading)
        loop.add_signal_handler(signal.SIGTERM, reading.cancel)
        try:
            await asyncio.gather(reading, return_exceptions=False)
        except asyncio.CancelledError:
            pass
        finally:
            show.cancel()
            await asyncio.gather(show, return_exceptions=True)
            for one in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(one)

    def _interrupt(self, reading: "asyncio.Task[None]") -> None:
        if self._turn is not None and not self._turn.done():
            self._cancelling = asyncio.ensure_future(self._session.cancel())
        else:
            reading.cancel()

    async def _read(self, lines: AsyncIterator[str]) -> None:
        self._prompt()
        async for line in lines:
            if line in ("/quit", "/exit"):
                return
            if line:
                await self._obey(line)
            self._prompt()
        if self._turn is not None:
            await asyncio.wait([self._turn])

    async def _obey(self, line: str) -> None:
        if line == "/cancel":
            await self._session.cancel()
        elif line == "/health":
            self._print(str(await self._session.health()))
        elif line.startswith("/"):
            self._print(HELP)
        else:
            try:
                self._turn = await self._session.send_user_input(line)
            except SlateError as error:
                self._print(f"! {error}", "red")
                return
            if not self._interactive:
                await asyncio.wait([self._turn])
                await asyncio.sleep(0)  # what it told is shown first

    async def _show(self) -> None:
        async for happening in self._session:
            self._say(happening)

    def _say(self, happening: Happening) -> None:
        match happening:
            case TextDelta(text=text):
                self._console.print(text, end="", markup=False, soft_wrap=True)
                self._in_text = True
            case CallStarted(name=name, arguments=arguments):
                told = "  ".join(f"{key}={value}" for key, value in arguments.items())
                self._print(f"> {name}  {told}", "cyan")
            case CallEnded(name=name, output=output, error=None, duration_ms=ms):
                told = output.get("path") or output.get("frameRef") or output.get("jobId") or ""
                self._print(f"< {name}  {ms} ms  {told}", "green")
            case CallEnded(name=name, error=error, duration_ms=ms):
                self._print(f"< {name}  {ms} ms  {error}", "red")
            case Reconnected(reason=reason):
                self._print(f"~ connecting anew: {reason}", "yellow")
            case Failed(message=message, retry_after_s=wait):
                self._print(f"! {message}" + (f" (again in {wait:.0f} s)" if wait else ""), "red")
            case TurnEnded(status=status, reason=reason):
                if status != "completed":
                    self._print(f"= {status}: {reason}", "yellow")
                self._prompt()

    def _print(self, text: str, style: str = "") -> None:
        if self._in_text:
            self._console.print()
            self._in_text = False
        self._console.print(f"[{style}]{escape(text)}[/{style}]" if style else escape(text), soft_wrap=True)

    def _prompt(self) -> None:
        if self._in_text:
            self._console.print()
            self._in_text = False
        if self._interactive and (self._turn is None or self._turn.done()):
            self._console.print("> ", end="")
