"""Structured logs on stderr: readable on a terminal, one JSON object a line elsewhere."""

import logging
import sys

import structlog

from connectors.settings import Settings
from connectors.tracing import log_trace_id


def configure(settings: Settings) -> None:
    """Set up structlog for this process."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([log_trace_id] if settings.otlp_endpoint else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The NATS library reports each lost connection with a stack trace; `connectors.jetstream` says it in one line.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    # That library closes TLS connections in a way of which asyncio says so each time, and that is harmless.
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())
    # httpx says the address of each request, and those of webhooks are secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
