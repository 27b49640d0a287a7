"""How a command ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from connectors.errors import SlateError


@contextmanager
def exit_codes(name: str) -> Iterator[None]:
    """End with 1 for a `SlateError`, whose words go to standard error behind the command's name, and with 130 for
    Ctrl-C. Anything else is a bug, and keeps its stack trace.

    Raises:
        SystemExit: with the code.
    """
    try:
        yield
    except SlateError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 - a command's last words
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
