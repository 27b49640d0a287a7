"""Traces from a user's input to the commit: what the other modules know of them.

Nothing of OpenTelemetry is loaded unless OTEL_EXPORTER_OTLP_ENDPOINT is set; `connectors.otlp` is what `start` gives
then. Guarantee: none. A trace tells of what happened and changes nothing of it: a collector that is away, slow or
broken costs spans, which are counted, and nothing else.

No payload, prompt, text, code or user goes into a span. Of an error it has the kind, never the message.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Final, Self

from connectors.journal import Record
from connectors.outcomes import Outcomes
from connectors.settings import Settings

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
"""Headers of a message (W3C Trace Context), in lower case as NATS has them."""
Attributes = Mapping[str, str | int]


class Span:
    """One step of a trace. This one is not recorded, and does nothing.

    In `with` it is the current one, and ends with it; an exception that leaves is its error.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def current(self) -> AbstractContextManager[object]:
        """Make it the current one, as `with` does, without ending it."""
        return _NOTHING

    def tell(self, attributes: Attributes) -> None:
        """Add attributes."""

    def outcome(self, word: str) -> None:
        """How it went, where that is no error; an exception that leaves is none any more."""

    def fail(self, code: str) -> None:
        """It failed; `code` is the kind of error, one of few."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over, by an exception where one is given."""


_NOTHING: Final = nullcontext()
NO_SPAN: Final = Span()


class Tracing:
    """Makes spans. This one makes none."""

    def begin(self, name: str, attributes: Attributes, *, client: bool = False) -> Span:
        """A span below the current one, or a trace's first. `client`: it waits for another system."""
        return NO_SPAN

    def carry(self, headers: dict[str, str] | None) -> dict[str, str] | None:
        """Headers of a message that belongs to the current span."""
        return headers

    def publish(self, record: Record) -> Span:
        """The sending of an event, since it was accepted, below the span that its headers name."""
        return NO_SPAN

    def committed(self, group: Sequence[Outcomes], began_ns: int) -> None:
        """Batches are stored: tell, in the trace of each message that has one, when and what became of it."""

    def close(self) -> None:
        """Send what is left, for two seconds at most. Later spans are lost."""

    async def aclose(self) -> None:
        """The same, without blocking the event loop."""


OFF: Final = Tracing()


def start(settings: Settings, service: str) -> Tracing:
    """Traces of this process, as `service`; `OFF` where no endpoint is set. The end of the process closes them, too.

    Raises:
        ConfigurationError: the headers are not `name=value,name=value`.
    """
    if settings.otlp_endpoint is None:
        return OFF
    from connectors.otlp import OtlpTracing  # noqa: PLC0415 - half a second and 20 MB that only tracing costs

    return OtlpTracing(settings, service)


def log_trace_id(_: Any, __: str, event: Any) -> Any:
    """A processor of structlog: the trace that a line belongs to."""
    if (api := sys.modules.get("opentelemetry.trace")) is not None:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
    return event
