"""Spans: what is in them, what a collector that fails costs, and what is loaded without one."""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from connectors.errors import ConfigurationError
from connectors.journal import Record
from connectors.messages import NatsSourceMessage
from connectors.otlp import QUEUE_SPANS, TRACED_MESSAGES, OtlpTracing
from connectors.settings import Settings
from connectors.tracing import OFF, Tracing, log_trace_id, start
from tests.support.collector import Collector, Seen
from tests.support.messages import STORED_US, message, outcomes
from tests.support.receiver import Answer
from tests.support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
DOWN = "http://127.0.0.1:9"
SECRET = "hunter2-collector-key"
SOUND: dict[str, Any] = {"kind": "k", "data": {}}


def tracing_to(endpoint: str, **more: Any) -> OtlpTracing:
    return OtlpTracing(Settings.load(local=False, otlp_endpoint=endpoint, **more), "test")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture
def tracing(collector: Collector) -> Iterator[OtlpTracing]:
    one = tracing_to(collector.endpoint)
    yield one
    one.close()


def sent(tracing: Tracing, collector: Collector) -> dict[str, Seen]:
    """Close, and give the spans by name."""
    tracing.close()
    return {one.name: one for one in collector.spans}


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("spark_trace_spans_total", {"outcome": outcome}) or 0.0


def traced(number: int = 1, subject: str = "spark.telemetry.s", fields: Any = None, **headers: str) -> Any:
    return message(subject, fields or SOUND, {"Nats-Msg-Id": f"m{number}", **(headers or {"traceparent": SAMPLED})})


def test_spans_nest_as_the_code_does_and_an_exception_is_told_by_its_kind_only(
    tracing: OtlpTracing, collector: Collector
) -> None:
    def fail() -> None:
        with tracing.begin("outer", {"a": 1}):
            with tracing.begin("inner", {}, client=True) as inner:
                inner.tell({"b": "2"})
                inner.outcome("refused")
            raise ValueError("a secret")

    with pytest.raises(ValueError, match="secret"):
        fail()
    spans = sent(tracing, collector)
    assert (spans["outer"].parent, spans["inner"].parent) == ("", spans["outer"].span)
    assert spans["outer"].attributes == {"a": 1, "error.type": "ValueError"}
    assert spans["outer"].error == "ValueError"
    assert spans["inner"].attributes == {"b": "2", "spark.outcome": "refused"}
    assert (spans["inner"].kind, spans["inner"].error) == ("client", None)
    assert b"secret" not in b"".join(one.body for one in collector.received)


def test_a_cancelled_span_is_no_error_and_words_that_are_no_code_are_not_told(
    tracing: OtlpTracing, collector: Collector
) -> None:
    with pytest.raises(asyncio.CancelledError), tracing.begin("cancelled", {}):
        raise asyncio.CancelledError
    with tracing.begin("failed", {}) as span:
        span.fail("what the server said, of Ann")
    spans = sent(tracing, collector)
    assert (spans["cancelled"].error, spans["cancelled"].attributes) == (None, {"spark.outcome": "cancelled"})
    assert (spans["failed"].error, spans["failed"].attributes) == ("_OTHER", {"error.type": "_OTHER"})


def test_an_event_carries_the_current_span_and_its_publication_is_below_it(
    tracing: OtlpTracing, collector: Collector
) -> None:
    assert tracing.carry(None) is None
    with tracing.begin("input", {}) as span:
        headers = tracing.carry({"X": "y"})
        span.tell({})
    assert headers is not None
    assert headers.keys() == {"X", "traceparent"}
    with tracing.publish(Record("spark.usage.sess_1", "m1", b"{}", headers, time.time_ns() - 5_000_000_000)):
        other = tracing.carry(headers)
    assert other is not None
    spans = sent(tracing, collector)
    publish = spans["publish spark.usage.{sid}"]
    assert headers["traceparent"][:-3] == f"00-{spans['input'].trace}-{spans['input'].span}"
    assert other["traceparent"][:-3] == f"00-{publish.trace}-{publish.span}"
    assert (publish.trace, publish.parent, publish.kind) == (spans["input"].trace, spans["input"].span, "producer")
    assert publish.ended - publish.began >= 5_000_000_000
    assert publish.attributes == {
        "messaging.system": "nats",
        "messaging.destination.name": "spark.usage.sess_1",
        "messaging.destination.template": "spark.usage.{sid}",
        "messaging.message.body.size": 2,
        "messaging.message.id": "m1",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "session.id": "sess_1",
    }


@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "nonsense"}])
def test_an_event_of_no_trace_begins_none(
    tracing: OtlpTracing, collector: Collector, headers: dict[str, str] | None
) -> None:
    with tracing.publish(Record("spark.usage.s", "m", b"{}", headers, 0)):
        assert tracing.carry(headers) == headers
    assert sent(tracing, collector) == {}


def test_what_became_of_each_message_is_in_its_trace_with_the_commit(
    tracing: OtlpTracing, collector: Collector
) -> None:
    group = outcomes(
        traced(1, tracestate="vendor=1", traceparent=SAMPLED),
        traced(1, "spark.usage.s", {"model": "m"}),
        traced(3, "spark.delta.s", {"delta": "of Ann"}),
        message("spark.error.s", {"error": "e"}),
        traced(5, "spark.presence.s", {"type": "t"}, traceparent=f"00-{TRACE}-{PARENT}-00"),
        traced(6, "spark.runtime.unity.x.s", {"type": "t"}, Traceparent=SAMPLED),
        traced(7, "spark.dlq", {"subject": "x"}),
    )
    began = time.time_ns()
    tracing.committed([group], began)
    tracing.close()
    commits = {one.parent: one for one in collector.named("commit")}
    spans = {one.name.removeprefix("ingest "): one for one in collector.named("ingest")}
    assert spans.keys() == {
        "spark.telemetry.{sid}",
        "spark.usage.{sid}",
        "spark.delta.{sid}",
        "spark.runtime.unity.x.{sid}",
        "spark.dlq",
    }
    outcome = {name: one.attributes["spark.outcome"] for name, one in spans.items()}
    assert outcome == {
        "spark.telemetry.{sid}": "stored",
        "spark.usage.{sid}": "duplicate",
        "spark.delta.{sid}": "dead_letter",
        "spark.runtime.unity.x.{sid}": "stored",
        "spark.dlq": "dead_letter",
    }
    dead = spans["spark.delta.{sid}"]
    assert (dead.error, dead.attributes["error.type"], dead.attributes["spark.stage"]) == (
        "wrong_type",
        "wrong_type",
        "validate",
    )
    for one in spans.values():
        commit = commits[one.span]
        assert (one.trace, one.parent, one.kind) == (TRACE, PARENT, "consumer")
        assert one.began == STORED_US * 1000 < began == commit.began <= commit.ended == one.ended
        assert one.attributes["messaging.destination.partition.id"] == "0"
        assert (commit.kind, commit.attributes["spark.transaction.messages"]) == ("client", 7)
    assert spans["spark.usage.{sid}"].attributes["spark.sequence"] == 2
    assert b"Ann" not in b"".join(one.body for one in collector.received)


def test_a_clock_that_is_behind_that_of_the_server_makes_no_span_that_ends_before_it_begins(
    tracing: OtlpTracing, collector: Collector
) -> None:
    tracing.committed([outcomes(traced())], STORED_US * 1000 - 10_000_000_000)
    (span,) = (one for one in sent(tracing, collector).values() if one.name.startswith("ingest"))
    assert span.began == STORED_US * 1000 - 10_000_000_000


def test_of_a_backlog_only_some_messages_are_told(tracing: OtlpTracing, collector: Collector) -> None:
    before = count("dropped")
    groups = [outcomes(*[traced(number) for number in range(400)]) for _ in range(2)]
    tracing.committed(groups, time.time_ns())
    tracing.close()
    assert len(collector.named("ingest")) == len(collector.named("commit")) == TRACED_MESSAGES
    assert count("dropped") - before == 2 * (800 - TRACED_MESSAGES)


TRACEPARENTS = st.one_of(
    st.binary(max_size=80),
    st.from_regex(rb"[0-9a-fA-F]{2}-[0-9a-fA-F]{30,34}-[0-9a-fA-F]{14,18}-[0-9a-fA-F]{1,3}.{0,3}"),
    st.just(SAMPLED.encode()),
)


def test_no_header_hurts_ingest(tracing: OtlpTracing) -> None:
    tracing.close()  # it goes on making spans; its thread would draw from `random`, which Hypothesis watches

    @settings(max_examples=300, deadline=None)
    @given(block=st.one_of(st.binary(max_size=200), st.lists(TRACEPARENTS, max_size=3)), states=st.binary(max_size=600))
    def check(block: bytes | list[bytes], states: bytes) -> None:
        if isinstance(block, list):
            lines = [b"traceparent: " + one for one in block] + [b"TraceState: " + states]
            block = b"NATS/1.0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
        one = NatsSourceMessage("spark.telemetry.s", b'{"kind":"k","data":{}}', 1, STORED_US * 1000, block)
        tracing.committed([outcomes(one, traced(2))], time.time_ns())
        assert not tracing._failed

    check()


@pytest.mark.parametrize(("ratio", "traces"), [(0.0, 0), (1.0, 50)])
def test_the_ratio_is_of_inputs_and_a_trace_that_others_began_goes_on(
    collector: Collector, ratio: float, traces: int
) -> None:
    tracing = tracing_to(collector.endpoint, trace_ratio=ratio)
    for _ in range(50):
        with tracing.begin("input", {}):
            headers = tracing.carry(None)
            assert headers is not None
            assert int(headers["traceparent"][-2:], 16) & 1 == ratio  # the other bit: its id is random
        with tracing.publish(Record("spark.usage.s", "m", b"{}", headers, time.time_ns())):
            pass
    with tracing.publish(Record("spark.usage.s", "m", b"{}", {"traceparent": SAMPLED}, time.time_ns())):
        pass
    tracing.committed([outcomes(traced())], time.time_ns())
    tracing.close()
    assert len(collector.named("input")) == traces
    assert len(collector.named("publish")) == traces + 1
    assert {one.trace for one in collector.named("ingest")} == {TRACE}


@pytest.mark.parametrize(
    ("answer", "why"),
    [(Answer(500), "HTTP 500"), (Answer(302, {"location": "/else"}), "HTTP 302"), (Answer(0), "ConnectionError")],
)
def test_a_collector_in_trouble_is_told_of_once_and_again_when_it_is_well(answer: Answer, why: str) -> None:
    before = count("failed"), count("sent")
    with Collector(answer) as collector, capture_logs() as logs:
        tracing = tracing_to(collector.endpoint)
        for ready in (False, False, True):
            if ready:
                collector.then(Answer())
            tracing.begin("span", {}).end()
            tracing._processor.force_flush()
        tracing.close()
    assert [(one["event"], one.get("error")) for one in logs] == [
        ("traces cannot be sent; spans are lost until they can", why),
        ("traces are sent again", None),
    ]
    assert (count("failed") - before[0], count("sent") - before[1]) == (2, 1)


def test_a_collector_that_hangs_costs_a_queue_of_spans_no_more_and_the_end_does_not_wait_for_it() -> None:
    before = count("dropped")
    with Collector(Answer(None)) as collector:
        tracing = tracing_to(collector.endpoint)
        began = time.monotonic()
        for _ in range(3 * QUEUE_SPANS):
            tracing.begin("span", {}).end()
        assert time.monotonic() - began < 10
        assert count("dropped") - before >= QUEUE_SPANS
        gc.collect()
        waiting = sum(1 for one in gc.get_objects() if type(one).__name__ == "_Span")
        assert waiting <= QUEUE_SPANS + 600
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 4


def test_many_threads_leave_the_count_of_the_queue_right(tracing: OtlpTracing, collector: Collector) -> None:
    def work() -> None:
        for _ in range(200):
            tracing.begin("s", {}).end()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    tracing.close()
    assert len(collector.named("s")) == 1600
    assert tracing._processor._counted._waiting == 0


def test_headers_are_sent_and_never_told(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        tracing = tracing_to(collector.endpoint, otlp_headers=f"x-key={SECRET},Authorization=Basic%20abc")
        tracing.begin("span", {}).end()
        tracing.close()
        other = tracing_to(DOWN, otlp_headers=f"x-key={SECRET}")
        other.begin("span", {}).end()
        other.close()
    assert collector.received[0].headers["x-key"] == SECRET
    assert collector.received[0].headers["authorization"] == "Basic abc"
    assert {one["event"] for one in logs} & {
        "traces cannot be sent; spans are lost until they can",
        "the collector has not taken the last spans in time",
    }
    assert SECRET not in f"{logs} {caplog.text} {tracing!r} {vars(tracing)}"


@pytest.mark.parametrize("headers", [SECRET, f"x-key {SECRET}", f"a=b,{SECRET}"])
def test_malformed_headers_are_refused_without_saying_them(headers: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS") as raised, caplog.at_level(0):
        tracing_to(DOWN, otlp_headers=headers)
    assert SECRET not in f"{raised.value} {caplog.text}"


def test_log_lines_within_a_span_have_its_trace(tracing: OtlpTracing, collector: Collector) -> None:
    with tracing.begin("span", {}):
        line = log_trace_id(None, "info", {"event": "e"})
    assert line == {"event": "e", "trace_id": sent(tracing, collector)["span"].trace}
    assert log_trace_id(None, "info", {"event": "e"}) == {"event": "e"}


def test_without_an_endpoint_there_is_no_tracing(tmp_path: Path) -> None:
    assert start(Settings.load(local=False), "x") is OFF
    with OFF.begin("span", {}) as span, span.current():
        span.tell({"a": 1})
        span.outcome("x")
        span.fail("y")
        span.end()
        assert OFF.carry(None) is None
        assert OFF.carry({"a": "b"}) == {"a": "b"}
    OFF.committed([outcomes(traced())], 0)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("flows.ingest,connectors.outbox,connectors.logs", "opentelemetry"),
        # The Redis library itself loads metrics of OpenTelemetry where they are installed.
        ("realtime.session,realtime.console", "opentelemetry.sdk.trace,opentelemetry.exporter,requests"),
    ],
)
def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded(modules: str, absent: str) -> None:
    code = (
        f"import sys, {modules}\n"
        "from connectors.logs import configure\n"
        "from connectors.settings import Settings\n"
        "from connectors.tracing import OFF, start\n"
        "settings = Settings.load(local=False)\n"
        "configure(settings)\n"
        "assert start(settings, 'x') is OFF\n"
        f"print([one for one in sys.modules if one.startswith({tuple(absent.split(','))!r})])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (said.stdout.strip(), said.returncode) == ("[]", 0), said.stderr


def test_the_end_of_a_process_sends_what_is_left(collector: Collector) -> None:
    code = (
        "from connectors.settings import Settings\n"
        "from connectors.tracing import start\n"
        f"start(Settings.load(local=False, otlp_endpoint='{collector.endpoint}'), 'x').begin('last', {{}}).end()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)
    eventually(lambda: collector.named("last"))
    assert collector.spans[0].service == "x"
