"""Builds of a game, as Unity tells of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from connectors.unity import Answer


@dataclass(frozen=True, slots=True)
class Build:
    """How a build goes."""

    job_id: str
    state: Literal["building", "completed", "failed", "timeout"]
    target: str = ""
    output_path: str = ""
    error: str = ""
    seconds: float = 0.0
    """Since it was asked for."""

    @property
    def over(self) -> bool:
        """Whether it will not change any more."""
        return self.state != "building"


OnBuild = Callable[[Build], Awaitable[None]]
_RESULTS: Final[Mapping[str, Literal["completed", "failed"]]] = {
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "failed",
    "skipped": "failed",
}


def build_of(job_id: str, answer: Answer) -> Build:
    """What `manage_build` says when it is asked for a build's status."""
    target, output = str(answer.data.get("platform") or ""), str(answer.data.get("output_path") or "")
    result = str(answer.data.get("result", ""))
    if answer.pending or result not in _RESULTS:
        return Build(job_id, "building", target, output)
    error = "" if result == "succeeded" else answer.message or f"the build was {result}"
    return Build(job_id, _RESULTS[result], target, output, error)
