"""Spans by OpenTelemetry, sent by OTLP over HTTP (`connectors.tracing` says what of).

Names and attributes follow OpenTelemetry's semantic conventions for messaging, databases, generative AI and MCP;
`spark.*` is ours. A sender waits for nothing: spans are queued, at most `QUEUE_SPANS` of them, and a thread sends them
by the batch.
"""

import asyncio
import atexit
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from prometheus_client import Counter

from connectors.errors import ConfigurationError
from connectors.journal import Record
from connectors.messages import NatsSourceMessage, header_key
from connectors.outcomes import Outcomes
from connectors.readers import instance
from connectors.settings import Settings
from connectors.tracing import NO_SPAN, TRACEPARENT, TRACESTATE, Attributes, Span, Tracing

QUEUE_SPANS: Final = 4096
"""How many spans wait for the collector; of more, the newest are dropped."""
EXPORT_SPANS: Final = 512
EXPORT_EVERY_S: Final = 1.0
EXPORT_TIMEOUT_S: Final = 3.0
CLOSE_TIMEOUT_S: Final = 2.0
TRACED_MESSAGES: Final = 128
"""Of how many messages a transaction tells; those with more come of a backlog, which tracing must not slow."""
MAX_VALUE: Final = 256
"""Longest value of an attribute, characters."""

SPANS: Final = Counter("spark_trace_spans", "Spans by what became of them: sent, failed or dropped", ["outcome"])

_TRACEPARENT: Final = header_key(TRACEPARENT)
_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,63}")
_W3C: Final = TraceContextTextMapPropagator()

_log = structlog.get_logger(__name__)


class OtlpTracing(Tracing):
    """Traces of this process.

    Args:
        settings: name the collector, and which part of users' inputs is traced.
        service: `service.name`.

    Raises:
        ConfigurationError: OTEL_EXPORTER_OTLP_HEADERS is malformed.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        # The library reports each failed batch, at times with headers in it; `_Exporter` says it once.
        for name in ("exporter", "sdk", "trace", "util"):
            logging.getLogger(f"opentelemetry.{name}").setLevel(logging.CRITICAL)
        self._processor = _Processor(_Exporter(settings))
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.trace_ratio),
            resource=Resource.create({"service.name": service, "service.instance.id": instance()}),
            span_limits=SpanLimits(max_attribute_length=MAX_VALUE),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("spark")
        self._stream = settings.stream
        self._database = settings.db_name
        self._failed = False
        atexit.register(self.close)

    def begin(self, name: str, attributes: Attributes, *, client: bool = False) -> Span:
        """See `Tracing`."""
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return _RecordedSpan(self._tracer.start_span(name, kind=kind, attributes=attributes))

    def carry(self, headers: dict[str, str] | None) -> dict[str, str] | None:
        """See `Tracing`."""
        if not get_current_span().get_span_context().is_valid:
            return headers
        carried = dict(headers or {})
        _W3C.inject(carried)
        return carried

    def publish(self, record: Record) -> Span:
        """See `Tracing`."""
        if not record.headers or TRACEPARENT not in record.headers:
            return NO_SPAN
        parent = _W3C.extract(record.headers, Context())
        if not get_current_span(parent).get_span_context().is_valid:
            return NO_SPAN
        attributes = {
            **_about(record.subject, len(record.payload)),
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.message.id": record.msg_id,
        }
        name = f"publish {attributes['messaging.destination.template']}"
        return _RecordedSpan(
            self._tracer.start_span(name, parent, SpanKind.PRODUCER, attributes, None, record.accepted_ns)
        )

    def committed(self, group: Sequence[Outcomes], began_ns: int) -> None:
        """See `Tracing`."""
        now = time.time_ns()
        left = TRACED_MESSAGES
        size = sum(len(outcomes.batch.messages) for outcomes in group)
        try:
            for outcomes in group:
                traced = [one for one in outcomes.batch.messages if _TRACEPARENT in one.headers.lower()]
                if len(traced) > left:
                    SPANS.labels(outcome="dropped").inc(2 * (len(traced) - left))
                    traced = traced[:left]
                if traced:
                    left -= len(traced)
                    self._tell(outcomes, traced, size, (began_ns, now))
        except Exception:  # noqa: BLE001 - what is stored stays stored, whatever a trace makes of it
            if not self._failed:
                self._failed = True
                _log.exception("a trace cannot be told: this is a fault of the program")

    def _tell(
        self, outcomes: Outcomes, traced: list[NatsSourceMessage], size: int, transaction_ns: tuple[int, int]
    ) -> None:
        batch = outcomes.batch
        began_ns, now = transaction_ns
        skipped = set(outcomes.skipped())
        dead = {letter.message.sequence: letter for letter in outcomes.dead}
        of_batch: dict[str, str | int] = {
            "messaging.operation.name": "ingest",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "ingest",
            "messaging.destination.partition.id": str(batch.partition),
            "spark.stream": batch.stream,
        }
        of_commit: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.namespace": self._database,
            "db.operation.name": "COMMIT",
            "spark.transaction.messages": size,
        }
        for message in traced:
            parent = _W3C.extract(_trace_headers(message.headers), Context())
            context = get_current_span(parent).get_span_context()
            if not context.is_valid or not context.trace_flags.sampled:
                continue
            # The server's clock may be ahead of ours.
            start = min(message.stored_at, began_ns)
            about = _about(message.subject, len(message.payload))
            name = f"ingest {about['messaging.destination.template']}"
            span = self._tracer.start_span(name, parent, SpanKind.CONSUMER, {**about, **of_batch}, None, start)
            span.set_attribute("spark.sequence", message.sequence)
            outcome = "stored"
            if message.sequence in skipped:
                letter = dead.get(message.sequence)
                outcome = "duplicate" if letter is None else "dead_letter"
                if letter is not None:
                    span.set_attribute("spark.stage", letter.stage)
                    _failed(span, letter.code)
            span.set_attribute("spark.outcome", outcome)
            below = set_span_in_context(span, parent)
            self._tracer.start_span("commit", below, SpanKind.CLIENT, of_commit, None, began_ns).end(now)
            span.end(now)

    def close(self) -> None:
        """See `Tracing`."""
        atexit.unregister(self.close)
        self._provider.shutdown()

    async def aclose(self) -> None:
        """See `Tracing`."""
        await asyncio.to_thread(self.close)


class _RecordedSpan(Span):
    """A span of OpenTelemetry."""

    __slots__ = ("_span", "_token", "_told")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self._told = False
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._token = attach(set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
        self.end(error)

    @contextmanager
    def current(self) -> Iterator[None]:
        token = attach(set_span_in_context(self._span))
        try:
            yield
        finally:
            detach(token)

    def tell(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def outcome(self, word: str) -> None:
        self._told = True
        self._span.set_attribute("spark.outcome", word)

    def fail(self, code: str) -> None:
        self._told = True
        _failed(self._span, code)

    def end(self, error: BaseException | None = None) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.outcome("cancelled")
        elif error is not None and not self._told:
            self.fail(type(error).__name__)
        self._span.end()


class _Session(requests.Session):
    """Knows why the last request was in vain, which the exporter does not tell."""

    trouble = ""

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        if self.verify is not True:  # OTEL_EXPORTER_OTLP_CERTIFICATE, before what the machine has in REQUESTS_CA_BUNDLE
            more["verify"] = self.verify
        try:
            answer = super().send(request, **more)
        except requests.RequestException as error:
            self.trouble = type(error).__name__
            raise
        # A redirection is not followed, and the library takes it for a success.
        self.trouble = f"HTTP {answer.status_code}" if answer.status_code >= 300 else ""
        return answer


class _Exporter(SpanExporter):
    """Sends batches; counts them, and says once that it cannot."""

    def __init__(self, settings: Settings) -> None:
        endpoint = str(settings.otlp_endpoint)
        parts = urlsplit(endpoint)
        self._collector = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self._session = _Session()
        self._exporter = OTLPSpanExporter(
            f"{endpoint.rstrip('/')}/v1/traces",
            headers=_headers(settings),
            timeout=EXPORT_TIMEOUT_S,
            session=self._session,
        )
        self._lock = threading.Lock()
        self._waiting = 0
        self._troubled = False

    def has_room(self) -> bool:
        """Take a place in the queue, if there is one."""
        with self._lock:
            if self._waiting >= QUEUE_SPANS:
                return False
            self._waiting += 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
        sent = result is SpanExportResult.SUCCESS and not self._session.trouble
        SPANS.labels(outcome="sent" if sent else "failed").inc(len(spans))
        if sent and self._troubled:
            _log.info("traces are sent again", collector=self._collector)
        elif not sent and not self._troubled:
            _log.warning(
                "traces cannot be sent; spans are lost until they can",
                collector=self._collector,
                error=self._session.trouble,
                remedy="check OTEL_EXPORTER_OTLP_ENDPOINT, its headers and the collector",
            )
        self._troubled = not sent
        return result

    def closed(self) -> None:
        """Say what was not sent in time."""
        with self._lock:
            left, self._waiting = self._waiting, 0
        if left:
            SPANS.labels(outcome="dropped").inc(left)
            _log.warning("the collector has not taken the last spans in time", collector=self._collector, spans=left)

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Processor(BatchSpanProcessor):
    """The library's queue, which counts what it drops and closes within `CLOSE_TIMEOUT_S`."""

    def __init__(self, exporter: _Exporter) -> None:
        super().__init__(exporter, QUEUE_SPANS, 1000 * EXPORT_EVERY_S, EXPORT_SPANS)
        self._counted = exporter

    def on_end(self, span: ReadableSpan) -> None:
        if self._counted.has_room():
            super().on_end(span)
        else:
            SPANS.labels(outcome="dropped").inc()

    def shutdown(self) -> None:
        # The public method waits for 30 s; the version is pinned, and tests hold the library to this.
        self._batch_processor.shutdown(timeout_millis=int(1000 * CLOSE_TIMEOUT_S))
        self._counted.closed()


def _headers(settings: Settings) -> dict[str, str]:
    """What goes with each request."""
    if settings.otlp_headers is None:
        return {}
    text = settings.otlp_headers.get_secret_value()
    found = parse_env_headers(text, liberal=True)
    if len(found) != len([one for one in text.split(",") if one.strip()]):
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_HEADERS must be name=value,name=value, with commas in values as %2C"
        )
    return dict(found)


def _about(subject: str, size: int) -> dict[str, str | int]:
    """Attributes of a message."""
    kind, _, session = subject.rpartition(".")
    about: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.destination.name": subject,
        "messaging.destination.template": subject,
        "messaging.message.body.size": size,
    }
    if kind and kind != "spark":  # `spark.dlq` names no session
        about |= {"messaging.destination.template": f"{kind}.{{sid}}", "session.id": session}
    return about


def _trace_headers(block: bytes) -> dict[str, str]:
    """The headers of a trace in a block of headers, whatever the case of their names."""
    found: dict[str, str] = {}
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        key = name.decode("latin-1").lower()
        if key in (TRACEPARENT, TRACESTATE):
            found.setdefault(key, value.strip().decode("latin-1"))
    return found


def _failed(span: OtelSpan, code: str) -> None:
    code = code if _CODE.fullmatch(code) else "_OTHER"
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))
