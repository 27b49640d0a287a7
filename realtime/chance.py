"""A seeded source of choices: the same seed makes the same ones on every machine."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """Choices from one seed; `random()` is the next number in [0, 1)."""

    __slots__ = ("_bits", "random")

    def __init__(self, seed: str) -> None:
        source = Random(seed)  # noqa: S311 - made-up traffic, not a secret
        self.random = source.random
        self._bits = source.getrandbits

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each as likely."""
        return options[int(self.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def hex(self, digits: int) -> str:
        """That many hexadecimal digits."""
        return f"{self._bits(digits * 4):0{digits}x}"

    def uuid(self) -> str:
        """A uuid of version 4."""
        text = self.hex(32)
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
