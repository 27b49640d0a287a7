"""`python -m realtime.api`: serve until SIGTERM or Ctrl-C."""

from typing import Annotated, Final

import typer
import uvicorn

from connectors import logs
from connectors.commands import exit_codes
from connectors.health import Health
from connectors.settings import Settings
from connectors.systemd import Reporter
from realtime.api.app import create_app

_SILENCE_S: Final = 30.0
"""For how long the event loop may do one thing, seconds, before systemd is let start the service anew."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; SLATE_API_HOST without it.")] = "",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Its port; SLATE_API_PORT without it.")] = None,
) -> None:
    """Serve reads, live updates, sessions and the page that shows them.

    Needs PostgreSQL and a key for users' tokens (SLATE_JWT_SECRET or SLATE_JWT_JWKS_URL). Sessions can be held where
    OPENAI_REALTIME_API_KEY, UNITY_MCP_URL and NATS_URL are set. TLS is a proxy's business.
    """
    settings = Settings.load()
    logs.configure(settings)
    health = Health(_SILENCE_S)

    async def beat() -> None:
        health.beat("event loop")

    config = uvicorn.Config(
        create_app(settings),
        host=host or settings.api_host,
        port=settings.api_port if port is None else port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=2000,
        h11_max_incomplete_event_size=64 << 10,
        timeout_notify=1,
        callback_notify=beat,
    )
    server = uvicorn.Server(config)
    health.need(lambda: None if server.started else "it does not serve yet")
    Reporter(
        health,
        lambda: f"serves {config.host}:{config.port}, {len(server.server_state.connections):,} connections",
        lambda: server.should_exit,
    ).start()
    server.run()


def main() -> None:
    """Run it: exit code 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(serve)
    with exit_codes("realtime.api"):
        app(prog_name="python -m realtime.api")


if __name__ == "__main__":
    main()
