"""Who does what in a test: on the secured stack each part of the system has a role and a user of its own."""

from collections.abc import Callable
from typing import Literal

from connectors.settings import Settings

Part = Literal["worker", "publisher", "service", "oracle"]
"""A worker; who publishes events; the HTTP service; and the test itself, which may look at everything."""

Act = Callable[[Settings, Part], Settings]
_acts: list[Act] = []


def acting(settings: Settings, part: Part) -> Settings:
    """These settings with the credentials of a part of the system; as they are on the plain stack, which has one."""
    return _acts[-1](settings, part) if _acts else settings


def install(act: Act) -> None:
    """Let `acting` do this for the rest of the process."""
    _acts.append(act)
