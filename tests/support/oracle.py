"""What the tables must hold after `bench_mix` traffic, worked out from the published bytes without the project's code.

The rules are those of the wire contract for the five kinds of that mix, written down a second time on purpose.
"""

import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import psycopg

from realtime.simulated import SimulatedEvent

_ENVELOPE = {"sessionId", "timestamp", "userId", "type"}
_STATUS = {"started": "loading", "frame": "ready", "completed": "ready", "failed": "error"}

_QUERIES = {
    "spark_usage": "session_id, {ts}, model, tokens_prompt, tokens_completion, cost_estimate::text",
    "spark_telemetry": "session_id, kind, {ts}, data",
    "spark_function_calls": "session_id, call_id, name, {ts}, duration_ms, status, error, args, output",
    "spark_previews": "session_id, engine, {ts}, status, frame_ref, meta",
    "spark_events": "session_id, type, {ts}, user_id::text, payload",
    "spark_generated_scripts": "session_id, script_name, script_content, prompt, {ts}",
}


def _row(*values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def expected(events: Iterable[SimulatedEvent]) -> dict[str, Counter[str]]:
    """The rows of each table, and the payloads of the dead letters, as counted texts."""
    tables: dict[str, Counter[str]] = {table: Counter() for table in (*_QUERIES, "dead_letters")}
    for event in {event.msg_id: event for event in events}.values():
        if not event.valid:
            tables["dead_letters"][event.payload.hex()] += 1
            continue
        body = json.loads(event.payload)
        session, ts = body["sessionId"], body["timestamp"]
        rest = {name: value for name, value in body.items() if name not in _ENVELOPE}
        match event.subject.split(".")[1]:
            case "usage":
                cost = json.loads(event.payload, parse_float=Decimal)["costEstimate"]
                tables["spark_usage"][
                    _row(session, ts, body["model"], body["tokensPrompt"], body["tokensCompletion"], f"{cost:.6f}")
                ] += 1
            case "telemetry":
                tables["spark_telemetry"][_row(session, body["kind"], ts, body["data"])] += 1
            case "function_call":
                tables["spark_function_calls"][_call(event, body)] += 1
            case "preview":
                _preview(tables, event, body, rest)
            case "runtime":
                tables["spark_events"][_row(session, body["type"], ts, body["userId"], rest)] += 1
                if "scriptContent" in body:
                    script = (session, body["scriptName"], body["scriptContent"], body["prompt"], ts)
                    tables["spark_generated_scripts"][_row(*script)] += 1
            case other:
                raise AssertionError(f"the oracle knows no {other}")
    return tables


def _call(event: SimulatedEvent, body: dict[str, Any]) -> str:
    session, ts = body["sessionId"], body["timestamp"]
    if "functionName" not in body:
        outcome = (body["durationMs"], body["status"], body.get("error"), body["args"], body.get("output"))
        return _row(session, body["callId"], body["name"], ts, *outcome)
    result = body["result"]
    status = "success" if result["success"] else "failed"
    return _row(session, event.msg_id, body["functionName"], ts, None, status, None, body["args"], result)


def _preview(
    tables: dict[str, Counter[str]], event: SimulatedEvent, body: dict[str, Any], rest: dict[str, Any]
) -> None:
    session, ts = body["sessionId"], body["timestamp"]
    if "status" in body:
        row = _row(session, body["engine"], ts, body["status"], body["frameRef"], body["meta"])
        tables["spark_previews"][row] += 1
        return
    step = body["type"].removeprefix("preview.")
    meta = {name: value for name, value in rest.items() if name != "frameRef"}
    tables["spark_previews"][_row(session, event.subject.split(".")[2], ts, _STATUS[step], rest["frameRef"], meta)] += 1
    tables["spark_events"][_row(session, body["type"], ts, body["userId"], rest)] += 1


def actual(connection: psycopg.Connection) -> dict[str, Counter[str]]:
    """The same from the database."""
    tables = {}
    for table, columns in _QUERIES.items():
        time = "created_at" if table == "spark_generated_scripts" else "ts"
        selected = columns.format(ts=f"(extract(epoch from {time}) * 1000)::bigint")
        rows = connection.execute(f"SELECT {selected} FROM {table}")
        tables[table] = Counter(_row(*row) for row in rows)
    letters = connection.execute("SELECT payload FROM slate.dead_letters")
    tables["dead_letters"] = Counter(row[0].hex() for row in letters)
    return tables


def assert_tables_equal(connection: psycopg.Connection, events: Iterable[SimulatedEvent]) -> None:
    """Compare, and say for the first table that differs what is missing and what is too much."""
    wanted, found = expected(events), actual(connection)
    for table, rows in wanted.items():
        missing, extra = rows - found[table], found[table] - rows
        difference = (
            f"{table}: {missing.total()} rows missing, such as {list(missing)[:2]}; "
            f"{extra.total()} too many, such as {list(extra)[:2]}"
        )
        assert found[table] == rows, difference
