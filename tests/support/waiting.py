"""Waiting for something that another process does."""

import asyncio
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.02


def eventually(condition: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T:
    """Return the first truthy result of `condition`; an assertion that fails counts as not yet.

    The only place where the tests sleep: there is no event to wait for in another process's table or log, and
    a condition with a deadline says what it waits for.

    Raises:
        AssertionError: it stayed false for `timeout` seconds; says `what` and the last result or failure.
    """
    deadline = monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        result: T | None = None
        try:
            result = condition()
            if result:
                return result
        except AssertionError as error:
            failure = error
        if monotonic() > deadline:
            raise AssertionError(
                f"not within {timeout} s: {what or getattr(condition, '__name__', 'condition')}; "
                f"last: {failure or result!r}"
            ) from failure
        sleep(_PAUSE_S)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """As `eventually`, where the loop must go on meanwhile.

    Raises:
        TimeoutError: it stayed false.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of another process or thread
            await asyncio.sleep(_PAUSE_S)
