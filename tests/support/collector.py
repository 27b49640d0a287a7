"""A collector of traces: takes OTLP over HTTP, and decodes it with OpenTelemetry's own messages."""

import ssl
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.support.certificates import Certificate
from tests.support.receiver import Receiver


@dataclass(frozen=True)
class Seen:
    """A span; times in nanoseconds since 1970, `parent` empty for a trace's first."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    began: int
    ended: int
    error: str | None
    attributes: dict[str, Any]
    service: str
    instance: str


class Collector(Receiver):
    """Use it as `Receiver`; what it answers with 200 it has taken."""

    scheme = "http"

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def encrypt(self, certificate: Certificate) -> None:
        """Speak TLS; to be called before it is entered."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.pem, certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "https"

    @property
    def spans(self) -> list[Seen]:
        """All that it has taken, by their begin."""
        found = [span for one in list(self.received) if one.answer == 200 for span in _decoded(one.body)]
        return sorted(found, key=lambda one: one.began)

    def named(self, start: str) -> list[Seen]:
        """Those whose names begin so."""
        return [one for one in self.spans if one.name.startswith(start)]


def _decoded(body: bytes) -> list[Seen]:
    found = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for one in of_scope.spans:
                assert not one.events, "events may hold messages of errors"
                found.append(
                    Seen(
                        one.name,
                        one.SpanKind.Name(one.kind).removeprefix("SPAN_KIND_").lower(),
                        one.trace_id.hex(),
                        one.span_id.hex(),
                        one.parent_span_id.hex(),
                        one.start_time_unix_nano,
                        one.end_time_unix_nano,
                        one.status.message if one.status.code == one.status.STATUS_CODE_ERROR else None,
                        _values(of_scope.scope.attributes) | _values(one.attributes),
                        about["service.name"],
                        about["service.instance.id"],
                    )
                )
    return found


def _values(pairs: Any) -> dict[str, Any]:
    return {one.key: _value(one) for one in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, str(pair.value.WhichOneof("value")))
