"""What traces cost: `python -m tests.bench.tracing [--messages N] [--runs N]`.

A backlog is drained with tracing off, on without a traced message, and with all of them traced, in turn. Then the
search for a trace in the headers of messages is measured alone.
"""

import argparse
import asyncio
import secrets
import statistics
import sys
import time
import timeit
from collections.abc import Iterable

from connectors.otlp import TRACED_MESSAGES, OtlpTracing
from connectors.publisher import Publisher
from connectors.settings import Settings
from flows.events import jetstream_identity
from realtime.bench_mix import bench_mix
from realtime.simulated import SimulatedEvent
from tests.bench.__main__ import line, renew_stream, say, servers
from tests.bench.drain import Drain, drain
from tests.support.collector import Collector
from tests.support.messages import SOUND, message, outcomes


async def publish(settings: Settings, events: Iterable[SimulatedEvent], traced: bool) -> None:
    """Fill the stream; each message of a trace of its own, or none of any."""
    async with await Publisher.connect(settings, max_pending=1000) as publisher:
        for event in events:
            headers = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"} if traced else None
            await publisher.publish(event.subject, event.payload, msg_id=event.msg_id, headers=headers)


def drained(messages: int, runs: int) -> None:
    """Rates of draining, and their ratios to the first."""
    runs_of: dict[str, list[Drain]] = {"off": [], "on, none traced": [], "on, all traced": []}
    with servers() as (settings, _), Collector() as collector:
        on = settings.model_copy(update={"otlp_endpoint": collector.endpoint})
        for traced in (False, True):
            asyncio.run(renew_stream(settings))
            asyncio.run(publish(settings, bench_mix(messages), traced))
            for number in range(runs):
                say(f"run {number + 1} of {runs}")
                if traced:
                    runs_of["on, all traced"].append(drain(on, messages))
                else:
                    runs_of["off"].append(drain(settings, messages))
                    runs_of["on, none traced"].append(drain(on, messages))
                collector.received.clear()
    off = statistics.median(one.rate for one in runs_of["off"])
    for name, found in runs_of.items():
        line(f"ingest drains, tracing {name}", [one.rate for one in found], "msg/s")
        line("  CPU of the worker", [one.worker_cpu_s / messages * 1e6 for one in found], "us/msg")
        line("  resident memory, highest", [one.resident_mib for one in found], "MiB")
        sys.stdout.write(
            f"{'  share of the rate without':44} {statistics.median(one.rate for one in found) / off:>12.2f}\n"
        )


def alone() -> None:
    """The CPU that a message's headers cost, microseconds."""
    plain = [message(*SOUND[number % len(SOUND)], {"Nats-Msg-Id": f"sess_0123:{number}"}) for number in range(1000)]
    traced = message(*SOUND[0], {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"})
    tracing = OtlpTracing(Settings.load(local=False, otlp_endpoint="http://127.0.0.1:9"), "bench")
    tracing.close()  # spans are made, and go nowhere
    of_none, of_all = [outcomes(*plain)], [outcomes(*[traced] * TRACED_MESSAGES)]
    for what, do, times in (
        ("identity of a message, from its headers", lambda: [jetstream_identity(one) for one in plain], 1000),
        ("is it traced? asked where tracing is on only", lambda: tracing.committed(of_none, 0), 1000),
        ("two spans of a traced message", lambda: tracing.committed(of_all, 0), TRACED_MESSAGES),
    ):
        runs = timeit.repeat(do, timer=time.process_time, number=10, repeat=5)
        line(what, [one / 10 / times * 1e6 for one in runs], "us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tracing", description="What traces cost.")
    parser.add_argument("--messages", type=int, default=60_000, help="messages to drain")
    parser.add_argument("--runs", type=int, default=3, help="how often each is drained")
    options = parser.parse_args()
    alone()
    drained(options.messages, options.runs)
