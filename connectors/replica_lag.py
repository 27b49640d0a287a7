"""How far a replica is behind its primary."""

from typing import Final

_POSITIONS: Final = 3600


class Lag:
    """How far a replica is behind, by the clock of this process alone: since when the primary has been further on.

    Neither an idle primary nor a replica that is cut off from it misleads, as the time of the last replayed transaction
    would.
    """

    def __init__(self) -> None:
        self._ahead: list[tuple[float, int]] = []  # where the primary was when, as far as it is not replayed
        self._begun = True  # whether the replica may have been behind before we looked

    def primary(self, now: float, position: int) -> None:
        """The primary is here."""
        if self._ahead and position < self._ahead[-1][1]:  # another one, or restored
            self._ahead.clear()
            self._begun = True
        if not self._ahead or position > self._ahead[-1][1]:
            self._ahead.append((now, position))
        if len(self._ahead) > _POSITIONS:
            del self._ahead[1::2]

    def replica(self, now: float, position: int, age_s: float | None) -> float | None:
        """Seconds that the replica is behind; None while the primary was never seen.

        Args:
            now: monotonic seconds.
            position: up to where it has replayed.
            age_s: age of the last transaction that it replayed; looked at only where it is behind from the beginning.
        """
        if not self._ahead:
            return None
        first = self._ahead[0]
        while len(self._ahead) > 1 and self._ahead[0][1] <= position:
            self._ahead.pop(0)
        since, ahead = self._ahead[0]
        if ahead <= position:
            self._begun = False
            return 0.0
        self._begun = self._begun and first == self._ahead[0]
        return max(now - since, age_s or 0.0) if self._begun else now - since
