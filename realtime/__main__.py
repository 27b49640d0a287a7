"""`python -m realtime`: a session in the terminal; `--demo` is `slate session --demo`, which starts stand-ins."""

import os
import sys

import typer

from connectors.commands import exit_codes
from realtime.terminal import session


def main() -> None:
    """Run it: exit code 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    if "--demo" in sys.argv[1:]:
        # Servers are the business of `deploy`, which nothing here imports.
        os.execv(sys.executable, [sys.executable, "-m", "deploy.cli", "session", *sys.argv[1:]])  # noqa: S606
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(session)
    with exit_codes("realtime"):
        app(prog_name="python -m realtime")


if __name__ == "__main__":
    main()
