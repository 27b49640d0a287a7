"""What a target is, and what all of them need."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from time import process_time
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")

CPU_S: Final = 2.0
"""Longest time that an input of any target may take, with room for the fuzzer's own bookkeeping."""

PART: Final = b"\x1f"
"""Ends a part of an input that has several."""


class Target(NamedTuple):
    """Something to be fuzzed.

    `check` takes an input and raises if a promise is broken. `seeds` are good inputs to begin with, `words` what may be
    put into one, and `mutate` changes an input without breaking its form.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    words: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes] | None = None


@contextmanager
def in_time() -> Iterator[None]:
    """Fail when the block takes longer than `CPU_S` of CPU: an input of a few kilobytes needs milliseconds."""
    began = process_time()
    yield
    spent = process_time() - began
    assert spent < CPU_S, f"took {spent:.1f} s of CPU"


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing: without an event loop, which costs more than most inputs."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waits for something")


def scramble(data: bytes, words: list[bytes], random: Random) -> bytes:
    """The bytes with one change that knows nothing of their form; for runs without a fuzzer."""
    at, end = sorted(random.randint(0, len(data)) for _ in range(2))
    match random.randrange(5):
        case 0:
            return data[:at] + data[end:]
        case 1:
            return data[:at] + data[at:end] * 2 + data[end:]
        case 2:
            return data[:at] + random.randbytes(random.randint(1, 4)) + data[at:]
        case 3 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    return data[:at] + random.choice(words) + data[at:]
