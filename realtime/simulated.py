"""What the simulator, the benchmarks' mix and the trace replay have in common: one message to publish."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """One message, ready to publish."""

    due: float
    """Seconds from the start at which it is to be published."""
    subject: str
    payload: bytes
    msg_id: str | None
    """`Nats-Msg-Id`, or None to send none."""
    kind: str
    """What it is: `usage`, `function_call`, `telemetry_batch`, ..., or `invalid`."""
    identity: str | None = None
    """Its `eventId`, else its `msg_id`; with neither, the stream's sequence is its identity."""
    refusal: str | None = None
    """Why the contract refuses it, or None."""
    repeat: bool = False
    """An earlier event again, under the same identity."""

    @property
    def valid(self) -> bool:
        """Whether the contract accepts it."""
        return self.refusal is None
