"""One trace from a user's input to the commit, across processes, whatever becomes of the collector."""

import asyncio
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from connectors.jetstream import ensure_stream
from connectors.otlp import OtlpTracing
from connectors.outbox import Outbox
from connectors.postgres import Progress
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState
from connectors.tracing import start
from connectors.writer import Writer
from deploy import servers
from deploy.servers import NatsServer
from flows.rows import TABLES
from flows.validate import refused_by_store, validate
from tests.standins.brain import Call, Turn, demo_brain
from tests.standins.realtime import FakeRealtime
from tests.support.certificates import Authority
from tests.support.collector import Collector, Seen
from tests.support.messages import STREAM, batch, message
from tests.support.outbox import client_of
from tests.support.proxy import Proxy
from tests.support.receiver import Answer
from tests.support.sessions import USER, Play, Published, Studio, published, turn
from tests.support.stack import connect
from tests.support.traced_process import TracedProcess
from tests.support.waiting import eventually
from tests.support.wire import Wire
from tests.support.worker import Worker

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
PROMPT = "Create a Unity player controller"


def traced(settings: Settings, collector: Collector, **more: Any) -> Settings:
    return settings.model_copy(update={"otlp_endpoint": collector.endpoint, **more})


def read(settings: Settings) -> int:
    with connect(settings) as connection:
        row = connection.execute("SELECT coalesce(sum(read), 0)::bigint FROM slate.progress").fetchone()
        return int(row[0]) if row else 0


def ingested(settings: Settings, messages: int, seconds: float = 15.0) -> str:
    """Let a worker store so many messages and end; give what it logged."""
    with Worker(settings) as worker:
        eventually(lambda: read(settings) == messages, 30, what=f"{messages} messages read")
        began = time.monotonic()
        worker.terminate()
        assert worker.wait() == 0
        assert time.monotonic() - began < seconds
    return worker.log.read_text()


def below(spans: list[Seen], of: Seen) -> list[Seen]:
    return [one for one in spans if one.parent == of.span]


def is_traced(event: Published) -> bool:
    return "traceparent" in event.headers


def test_one_input_is_one_trace_from_the_input_to_the_commit(play: Play) -> None:
    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session, PROMPT)

    with Collector() as collector:
        settings = traced(play.settings, collector)
        events = play(FakeRealtime(brain=demo_brain), scenario, otlp_endpoint=collector.endpoint)
        ingested(settings, len(events))
        spans = collector.spans
        bodies = b"".join(one.body for one in collector.received)
    by_id = {one.span: one for one in spans}
    (root,) = (one for one in spans if not one.parent)
    assert {one.trace for one in spans} == {root.trace}
    assert (root.name, root.service, root.attributes["spark.outcome"]) == ("user input", "slate-session", "completed")
    # A child begins within its parent; the publication goes on until it is acknowledged.
    for one in spans:
        assert one.began <= one.ended
        if one.parent:
            assert by_id[one.parent].began <= one.began
    assert Counter(one.name for one in below(spans, root) if not one.name.startswith("publish")) == {
        "chat gpt-realtime-2.1": 2,
        "execute_tool generateUnityScript": 1,
        "execute_tool renderPreview": 1,
    }
    (script,) = collector.named("execute_tool generateUnityScript")
    assert [one.name.removeprefix("publish spark.") for one in below(spans, script)] == [
        "runtime.unity.generate_unity_script_started.{sid}",
        "tools/call manage_script",
        "tools/call create_script",
        "runtime.unity.generate_unity_script_completed.{sid}",
        "runtime.unity.script_generated.{sid}",
        "function_call.{sid}",
    ]
    # Each event of the input, and no other, has its publication, its ingest and its commit.
    whole = [one for one in events if is_traced(one)]
    assert [one.subject.split(".")[1] for one in events if not is_traced(one)] == ["session", "session"]
    assert len(whole) == len(collector.named("publish")) == len(collector.named("ingest")) == len(events) - 2
    for event in whole:
        publish = by_id[event.headers["traceparent"].split("-")[2]]
        (ingest,) = below(spans, publish)
        (commit,) = below(spans, ingest)
        assert (publish.kind, ingest.kind, commit.kind) == ("producer", "consumer", "client")
        assert publish.attributes["messaging.message.id"] == event.headers["Nats-Msg-Id"]
        assert (publish.attributes["messaging.destination.name"], ingest.attributes["spark.outcome"]) == (
            event.subject,
            "stored",
        )
        assert (publish.service, ingest.service, commit.name) == ("slate-session", "slate-ingest", "commit")
        assert publish.instance != ingest.instance
        assert ingest.began <= commit.began < commit.ended == ingest.ended
    assert not [one for one in spans if one.error]
    for secret in (PROMPT, "using UnityEngine", "PlayerController", USER, "sk-test", "Done:"):
        assert secret.encode() not in bodies, secret


def test_each_input_is_a_trace_of_its_own_also_over_a_connection_that_the_one_before_has_opened(play: Play) -> None:
    openai = FakeRealtime(
        [
            Turn(text="It is nearly all said", drop_after=2),
            Turn(text="The first. It is said."),
            Turn(calls=[Call("madeUpBy Ann", {}), Call("createUnityPrefab", {"path": "elsewhere"})]),
            Turn(text="The second."),
        ]
    )

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            await turn(session, "One")
            await turn(session, "Two")

    with Collector() as collector:
        events = play(openai, scenario, otlp_endpoint=collector.endpoint)
        bodies = b"".join(one.body for one in collector.received)
        first, second = collector.named("user input")
        failed = collector.named("execute_tool")
        lost = [one for one in collector.named("chat") if one.error]
    texts = {
        one.body["delta"]["text"].split()[1]: one.headers["traceparent"].split("-")[1]
        for one in events
        if one.subject.startswith("spark.delta") and "The" in one.body["delta"]["text"]
    }
    assert texts == {"first.": first.trace, "second.": second.trace}
    assert [one.error for one in lost] == ["ConnectionLostError"]
    assert [(one.name, one.error, one.trace) for one in failed] == [
        ("execute_tool unknown", "ToolArgumentError", second.trace),
        ("execute_tool createUnityPrefab", "ToolArgumentError", second.trace),
    ]
    assert b"Ann" not in bodies


def test_without_an_endpoint_no_header_is_added(settings: Settings, tmp_path: Path) -> None:
    async def run() -> None:
        async with await Outbox.open(settings, tmp_path, tracing=start(settings, "x")) as outbox:
            await outbox.put("spark.telemetry.s", b'{"kind":"k","data":{}}', msg_id="e1")
            await outbox.flush(10)

    asyncio.run(run())
    assert [one.headers for one in published(settings)] == [{"Nats-Msg-Id": "e1"}]


def test_an_event_that_a_killed_process_kept_on_disk_still_belongs_to_its_trace(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def send(settings: Settings) -> None:
        tracing = start(settings, "next")
        async with await Outbox.open(settings, tmp_path / "spill", tracing=tracing) as outbox:
            await outbox.flush(30)
        await tracing.aclose()

    with Collector() as collector:
        whole = traced(settings, collector)
        nats_server.kill()
        with TracedProcess(whole, tmp_path / "spill", 3) as process:
            eventually(process.has_put, 20)
            (first,) = eventually(lambda: collector.named("user input"), 10)
            process.kill()
        nats_server.start()
        asyncio.run(send(whole))
        ingested(whole, 3)
        spans = collector.spans
    assert {one.trace for one in spans} == {first.trace}
    publications = below(spans, first)
    assert [(one.name, one.service) for one in publications] == [("publish spark.telemetry.{sid}", "next")] * 3
    for one in publications:
        assert first.began < one.began < first.ended < one.ended  # since it was put
        (ingest,) = below(spans, one)
        (commit,) = below(spans, ingest)
        assert (ingest.service, commit.name) == ("slate-ingest", "commit")


def test_an_event_outside_of_a_trace_does_not_get_into_that_of_the_one_before(
    settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def run(settings: Settings) -> None:
        tracing = start(settings, "x")
        nats_server.kill()
        async with await Outbox.open(settings, tmp_path, tracing=tracing) as outbox:
            with tracing.begin("user input", {}):
                await outbox.put("spark.telemetry.s", b'{"kind":"k","data":{}}', msg_id="e1")
            await outbox.put("spark.telemetry.s", b'{"kind":"k","data":{}}', msg_id="e2")
            nats_server.start()
            await outbox.flush(30)
        await tracing.aclose()

    with Collector() as collector:
        asyncio.run(run(traced(settings, collector)))
    assert [is_traced(one) for one in published(settings)] == [True, False]


def test_at_a_ratio_of_none_nothing_is_traced_but_what_a_caller_traces(settings: Settings, tmp_path: Path) -> None:
    async def run(settings: Settings) -> None:
        tracing = start(settings, "x")
        body = b'{"kind":"k","data":{}}'
        async with await Outbox.open(settings, tmp_path, tracing=tracing) as outbox:
            with tracing.begin("user input", {}):
                await outbox.put("spark.telemetry.a", body, msg_id="e1")
            await outbox.put("spark.telemetry.b", body, msg_id="e2", headers={"traceparent": SAMPLED})
            # A program that has this one within it, and traces.
            theirs = SpanContext(int(TRACE, 16), int(PARENT, 16), False, TraceFlags(1))
            token = attach(set_span_in_context(NonRecordingSpan(theirs)))
            with tracing.begin("user input", {}):
                await outbox.put("spark.telemetry.c", body, msg_id="e3")
            detach(token)
            await outbox.flush(10)
        await tracing.aclose()

    with Collector() as collector:
        whole = traced(settings, collector, trace_ratio=0.0)
        asyncio.run(run(whole))
        ingested(whole, 3)
        found = Counter(one.name for one in collector.spans)
        assert {one.trace for one in collector.spans} == {TRACE}
        sessions = {one.attributes.get("session.id") for one in collector.named("ingest")}
    name = "spark.telemetry.{sid}"
    assert found == {"user input": 1, f"publish {name}": 2, f"ingest {name}": 2, "commit": 2}
    assert sessions == {"b", "c"}


@pytest.mark.parametrize("answer", [Answer(500), Answer(None), None], ids=["fails", "hangs", "is away"])
def test_a_collector_in_trouble_changes_nothing_for_sessions_and_ingest(play: Play, answer: Answer | None) -> None:
    took: list[float] = []

    async def scenario(it: Studio) -> None:
        async with it.session() as session:
            for _ in range(3):
                began = time.monotonic()
                await turn(session, PROMPT)
                took.append(time.monotonic() - began)

    with Collector(answer or Answer()) as collector:
        endpoint = collector.endpoint if answer else "http://127.0.0.1:9"
        began = time.monotonic()
        events = play(FakeRealtime(brain=demo_brain), scenario, otlp_endpoint=endpoint)
        whole = time.monotonic() - began
        log = ingested(traced(play.settings, collector, otlp_endpoint=endpoint), len(events))
        assert bool(collector.received) == (answer is not None)
    assert max(took) < 10
    assert whole < 40
    assert log.count("traces cannot be sent") + log.count("has not taken the last spans") in (1, 2)
    assert "Traceback" not in log
    assert "opentelemetry" not in log


def test_malformed_headers_of_a_message_change_nothing_of_what_is_stored(settings: Settings) -> None:
    odd = [
        b"\xff" * 10,
        b"",
        b"00-0-0-0",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"x" * 4000,
        b"ff" + SAMPLED[2:].encode(),
    ]
    with Collector() as collector:
        with Wire(settings) as wire:
            for number, one in enumerate(odd):
                head = b"NATS/1.0\r\ntraceparent: %s\r\ntracestate: \xfe,=,\r\nNats-Msg-Id: m%d\r\n\r\n" % (one, number)
                wire.publish("spark.telemetry.s", b'{"kind":"k","data":{}}', head)
            head = b"NATS/1.0\r\nTraceParent: %s\r\ntracestate: \xfe,=,\r\n\r\n" % SAMPLED.encode()
            wire.publish("spark.telemetry.s", b"no JSON", head)
        log = ingested(traced(settings, collector), len(odd) + 1)
        (dead,) = collector.named("ingest")
    assert "error" not in log
    with connect(settings) as connection:
        assert connection.execute("SELECT count(*) FROM spark_telemetry").fetchone() == (len(odd),)
    assert (dead.parent, dead.error, dead.attributes["spark.outcome"]) == (PARENT, "not_json", "dead_letter")


def test_a_batch_whose_answer_was_lost_is_told_once_it_is_seen_to_be_stored(settings: Settings) -> None:
    Progress(settings).start(0, StreamState(STREAM, datetime(2026, 3, 1, tzinfo=UTC), 1, 0))
    those = batch(*[message("spark.usage.s", {"model": "m"}, {"traceparent": SAMPLED}) for _ in range(3)])
    with Collector() as collector, Proxy(settings.db_port, str(settings.db_host)) as proxy:
        through = traced(settings, collector, db_host="127.0.0.1", db_port=proxy.port)
        tracing = OtlpTracing(through, "x")
        with closing(Writer(through, TABLES, validate, refused_by_store, Shutdown(), tracing)) as writer:
            writer.write([validate(batch())])
            proxy.cut_after_request()
            writer.write([validate(those)])
        tracing.close()
        assert proxy.cuts == 1
        assert [one.attributes["spark.outcome"] for one in collector.named("ingest")] == ["stored"] * 3
    with connect(settings) as connection:
        assert connection.execute("SELECT count(*) FROM spark_usage").fetchone() == (3,)


def test_the_certificate_of_a_collector_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(collector: Collector) -> None:
        tracing = start(Settings.load(local=False, otlp_endpoint=collector.endpoint), "x")
        tracing.begin("span", {}).end()
        tracing.close()

    authority = Authority(tmp_path)
    collector = Collector()
    collector.encrypt(authority.issue("collector"))
    with collector:
        send(collector)
        assert not collector.received
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority.file))
        send(collector)
        assert collector.named("span")


def test_an_event_that_is_too_large_with_its_trace_is_sent_without(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "NATS_MAX_PAYLOAD", 1 << 20)
    server = NatsServer(tmp_path / "nats", user="slate", password="p")
    server.start()
    own = Settings.load(local=False, nats_url=server.environment()["NATS_URL"], otlp_endpoint="http://127.0.0.1:9")
    payload = b"x" * ((1 << 20) - 14 - len("Nats-Msg-Id: e1\r\n"))

    async def run() -> Any:
        await ensure_stream(own)
        tracing = start(own, "x")
        async with await Outbox.open(own, tmp_path / "spill", tracing=tracing) as outbox:
            with tracing.begin("user input", {}):
                await outbox.put("spark.telemetry.s", payload, msg_id="e1")
            await outbox.flush(20)
        await tracing.aclose()
        async with client_of(own) as jetstream:
            return await jetstream.get_msg(own.stream, seq=1)

    try:
        stored = asyncio.run(run())
    finally:
        server.stop()
    assert (stored.subject.rpartition("spark")[2], stored.data) == (".telemetry.s", payload)
    assert stored.headers == {"Nats-Msg-Id": "e1"}
