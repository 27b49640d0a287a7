"""Every row of the wire contract, both spellings, and whose identity each message has.

Expected rows are in the column order of `flows.rows`, behind the event's key.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.events import EVENT_ID_HEADER, identity_key
from flows.validate import validate
from tests.support.messages import (
    AT_MS,
    AT_US,
    EVERY_KIND,
    PROJECT,
    PROJECT_BYTES,
    SOUND,
    STORED_US,
    USER,
    USER_BYTES,
    batch,
    message,
    outcome,
    outcomes,
)

OWNER = {"userId": USER, "projectId": PROJECT}
CALL = "spark.function_call.s"
TELEMETRY = "spark.telemetry.s"
BATCH = "spark.telemetry.batch.s"
USAGE = "spark.usage.s"


def rows(subject: str, fields: dict[str, Any] | bytes, **headers: str) -> dict[str, list[tuple[object, ...]]]:
    """The rows of a message with the event time `AT_MS`, without their keys."""
    if isinstance(fields, dict):
        fields = msgspec.json.encode({"sessionId": "s", "timestamp": AT_MS, **fields})
    result = outcome(subject, fields, {name.replace("_", "-"): value for name, value in headers.items()})
    assert not result.dead
    assert (result.stored, result.duplicate, result.dead_messages) == (1, 0, 0)
    return {table: [row[1:] for row in those] for table, those in result.rows.items()}


def event(type_: str, payload: bytes, user: bytes | None = None, project: bytes | None = None) -> tuple[object, ...]:
    return ("s", type_, AT_US, user, project, payload)


def test_a_connected_session_opens_and_tells_who_and_what() -> None:
    fields = {"type": "connected", "model": "gpt", "mode": "creative", "client": {"v": 2}, **OWNER}
    assert rows("spark.session.connected.s", fields) == {
        "spark_sessions": [("s", AT_US, None, USER_BYTES, "gpt", "creative", b'{"client":{"v":2}}')],
        "spark_events": [
            event("connected", b'{"model":"gpt","mode":"creative","client":{"v":2}}', USER_BYTES, PROJECT_BYTES)
        ],
    }


def test_a_disconnected_session_closes() -> None:
    assert rows("spark.session.disconnected.s", {"type": "disconnected", "reason": "idle"}) == {
        "spark_sessions": [("s", None, AT_US, None, None, None, None)],
        "spark_events": [event("disconnected", b'{"reason":"idle"}')],
    }


def test_a_session_message_needs_no_field_at_all() -> None:
    assert outcome("spark.session.connected.s", b"{}").rows == {
        "spark_sessions": [(None, "s", STORED_US, None, None, None, None, None)],
        "spark_events": [(None, "s", "connected", STORED_US, None, None, b"{}")],
    }


def test_a_function_call_is_stored_with_its_arguments_and_output() -> None:
    fields = {"callId": "c-1", "name": "apply_patch", "status": "success", "durationMs": 12, "args": {"a": 1}}
    assert rows(CALL, fields | OWNER | {"output": [1, None]}) == {
        "spark_function_calls": [
            *[
                (
                    "s",
                    "c-1",
                    "apply_patch",
                    AT_US,
                    12,
                    "success",
                    None,
                    b'{"a":1}',
                    b"[1,null]",
                    USER_BYTES,
                    PROJECT_BYTES,
                    1,
                )
            ]
        ]
    }


@pytest.mark.parametrize(
    ("error", "column"), [("no such file", "no such file"), ({"code": 7}, '{"code":7}'), (None, None)]
)
def test_a_failed_call_keeps_its_error_as_text(error: object, column: str | None) -> None:
    fields = {"callId": "c", "name": "n", "status": "failed", "error": error}
    assert rows(CALL, fields) == {
        "spark_function_calls": [("s", "c", "n", AT_US, None, "failed", column, None, None, None, None, 1)]
    }


@pytest.mark.parametrize(
    ("result", "status", "error"),
    [
        ({"success": True, "guid": "a1"}, "success", None),
        ({"success": False, "error": "busy"}, "failed", "busy"),
        ({"success": False}, "failed", None),
        ({}, "success", None),
        ({"success": None}, "success", None),
        ({"success": 0}, "success", None),
        ({"success": "false"}, "success", None),
    ],
)
def test_an_older_call_failed_only_where_its_result_says_success_false(
    result: dict[str, Any], status: str, error: str | None
) -> None:
    fields = {"type": "function_call", "functionName": "n", "args": {"a": 1}, "result": result, "eventId": "e-1"}
    assert rows(CALL, fields) == {
        "spark_function_calls": [
            ("s", "e-1", "n", AT_US, None, status, error, b'{"a":1}', msgspec.json.encode(result), None, None, 1)
        ]
    }


@pytest.mark.parametrize(
    ("fields", "headers", "call_id"),
    [
        ({"eventId": "e-1"}, {"Nats_Msg_Id": "m-1"}, "e-1"),
        ({}, {"Nats_Msg_Id": "m-1"}, "m-1"),
        ({}, {}, "SPARK:1"),
        ({"callId": "c-1", "eventId": "e-1"}, {}, "c-1"),
    ],
)
def test_an_older_call_takes_its_call_id_from_the_identity_of_its_event(
    fields: dict[str, Any], headers: dict[str, str], call_id: str
) -> None:
    old = {"functionName": "n", "result": {}}
    assert rows(CALL, old | fields, **headers)["spark_function_calls"][0][1] == call_id


def test_telemetry_keeps_its_data_to_the_byte_and_unknown_fields_beside_it() -> None:
    payload = b'{"kind":"frame","data":{"fps":59.94000000000000001,"n":[1, 2]},"timestamp":%d}' % AT_MS
    assert rows(TELEMETRY, payload) == {
        "spark_telemetry": [("s", "frame", AT_US, b'{"fps":59.94000000000000001,"n":[1, 2]}')]
    }
    payload = b'{"kind":"frame","data":{"fps":60},"fps":1,"sdk":0.10,"timestamp":%d}' % AT_MS
    assert rows(TELEMETRY, payload) == {"spark_telemetry": [("s", "frame", AT_US, b'{"fps":60,"sdk":0.10}')]}


def test_a_telemetry_batch_is_a_row_for_each_element_with_its_own_session_and_time() -> None:
    elements: list[dict[str, Any]] = [
        {"sessionId": "s", "kind": "a", "data": {}, "timestamp": AT_MS + 1},
        {"sessionId": "other", "kind": "b", "data": {"x": 1}, "sdk": 2},
        {"kind": "c", "data": {}},
    ]
    assert rows(BATCH, {"events": elements}) == {
        "spark_telemetry": [
            ("s", "a", AT_US + 1000, b"{}"),
            ("other", "b", AT_US, b'{"sdk":2,"x":1}'),
            ("s", "c", AT_US, b"{}"),
        ]
    }


def test_usage_counts_tokens_and_keeps_the_cost_as_it_was_written() -> None:
    payload = b'{"model":"m","tokensPrompt":2147483647,"tokensCompletion":0,"costEstimate":0.1234567890123456789,'
    payload += b'"timestamp":%d,"userId":"%s"}' % (AT_MS, USER.encode())
    assert rows(USAGE, payload) == {
        "spark_usage": [("s", AT_US, "m", 2**31 - 1, 0, "0.1234567890123456789", USER_BYTES)]
    }
    assert rows(USAGE, {"model": "m"}) == {"spark_usage": [("s", AT_US, "m", 0, 0, "0", None)]}


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        ("preview.started", "loading"),
        ("preview.frame", "ready"),
        ("preview.completed", "ready"),
        ("preview.failed", "error"),
        ("preview_started", "loading"),
        ("preview_frame", "ready"),
        ("preview_completed", "ready"),
        ("preview_failed", "error"),
    ],
)
def test_a_preview_of_the_older_form_takes_status_from_its_type_and_engine_from_its_subject(
    type_: str, status: str
) -> None:
    fields = {"type": type_, "frameRef": "f.png", "format": "png", "error": "e", **OWNER}
    assert rows("spark.preview.godot.any.s", fields) == {
        "spark_previews": [("s", "godot", AT_US, status, "f.png", b'{"format":"png","error":"e"}')],
        "spark_events": [event(type_, b'{"frameRef":"f.png","format":"png","error":"e"}', USER_BYTES, PROJECT_BYTES)],
    }


@pytest.mark.parametrize("status", ["idle", "loading", "ready", "error"])
def test_a_preview_of_the_newer_form_is_no_event_without_a_type(status: str) -> None:
    fields = {"engine": "renpy", "status": status, "frameRef": "f.png", "meta": {"w": 1}, "codec": "av1", "w": 2}
    assert rows("spark.preview.unity.frame.s", fields) == {
        "spark_previews": [("s", "renpy", AT_US, status, "f.png", b'{"codec":"av1","w":1}')]
    }
    assert rows("spark.preview.unity.frame.s", {"engine": "unity", "status": status}) == {
        "spark_previews": [("s", "unity", AT_US, status, None, b"{}")]
    }


def test_a_runtime_event_keeps_its_flat_fields_and_a_whole_script_is_stored_beside_it() -> None:
    subject = "spark.runtime.unity.script_generated.s"
    script = {"type": "script_generated", "scriptName": "A.cs", "scriptContent": "class A {}", "prompt": "an A"}
    assert rows(subject, script | OWNER | {"lines": 1}) == {
        "spark_events": [
            event(
                "script_generated",
                b'{"scriptName":"A.cs","scriptContent":"class A {}","prompt":"an A","lines":1}',
                USER_BYTES,
                PROJECT_BYTES,
            )
        ],
        "spark_generated_scripts": [("s", "A.cs", "class A {}", "an A", AT_US)],
    }
    del script["prompt"]
    assert rows(subject, script)["spark_generated_scripts"] == [("s", "A.cs", "class A {}", None, AT_US)]
    del script["scriptContent"]
    assert rows(subject, script).keys() == {"spark_events"}


@pytest.mark.parametrize(
    ("step", "told", "status"),
    [
        ("started", None, "building"),
        ("started", "queued", "queued"),
        ("progress", None, "building"),
        ("progress", "building", "building"),
        ("progress", "completed", "completed"),
        ("completed", None, "completed"),
        ("completed", "building", "completed"),
        ("failed", None, "failed"),
        ("timeout", None, "failed"),
        ("timeout", "building", "failed"),
    ],
)
def test_a_build_step_moves_its_job_and_is_an_event(step: str, told: str | None, status: str) -> None:
    fields: dict[str, Any] = {"type": f"build_{step}", "jobId": "j-1", "target": "WebGL", "progress": 40.5}
    if told:
        fields["status"] = told
    payload = {name: value for name, value in fields.items() if name != "type"}
    for sent in (fields, payload):  # the type may be left to the subject
        assert rows(f"spark.build.unity.{step}.s", sent) == {
            "spark_build_jobs": [("j-1", "s", "WebGL", status, AT_US)],
            "spark_events": [event(f"build_{step}", msgspec.json.encode(payload))],
        }


@pytest.mark.parametrize(
    ("subject", "fields", "type_", "payload"),
    [
        ("spark.delta.s", {"type": "delta", "delta": {"text": "Hel"}}, "delta", b'{"delta":{"text":"Hel"}}'),
        ("spark.delta.s", {"delta": {}}, "delta", b'{"delta":{}}'),
        ("spark.error.s", {"type": "connection_error", "error": "x"}, "connection_error", b'{"error":"x"}'),
        ("spark.error.s", {"error": {"code": 1}}, "connection_error", b'{"error":{"code":1}}'),
        ("spark.presence.s", {"type": "p", "view": "editor"}, "p", b'{"view":"editor"}'),
        ("spark.presence.s", {"type": "p"}, "p", b"{}"),
        ("spark.a.b.c.d.s", {"type": "p", "payload": [1, "x", None]}, "p", b'[1,"x",null]'),
        ("spark.s", {"type": "p", "payload": "text", "other": 1}, "p", b'"text"'),
        ("spark.s", {"type": "p", "payload": 0}, "p", b"0"),
        ("spark.s", {"type": "p", "payload": {}, "other": 1}, "p", b"{}"),
        ("spark.s", {"type": "p", "payload": None, "other": 1}, "p", b"null"),
    ],
)
def test_any_other_event_keeps_its_payload_or_else_its_remaining_fields(
    subject: str, fields: dict[str, Any], type_: str, payload: bytes
) -> None:
    assert rows(subject, fields | OWNER) == {"spark_events": [event(type_, payload, USER_BYTES, PROJECT_BYTES)]}


@EVERY_KIND
def test_numbers_in_json_columns_keep_every_digit(subject: str, fields: dict[str, Any]) -> None:
    exact = b"[0.1234567890123456789,12345678901234567890,1e-400,-0.0,1E5,1.10]"
    payload = msgspec.json.encode(fields)[:-1] + b',"exact":' + exact + b',"args":' + exact + b',"meta":{"m":' + exact
    result = outcome(subject, payload + b'},"output":' + exact + b"}")
    assert not result.dead
    texts = [value for those in result.rows.values() for row in those for value in row if isinstance(value, bytes)]
    jsons = [text for text in texts if text not in (USER_BYTES, PROJECT_BYTES)]
    expected = {USAGE: 0, BATCH: 0}.get(subject, 1)
    assert sum(exact in text for text in jsons) >= expected


@EVERY_KIND
def test_every_kind_may_leave_out_session_and_time_or_say_them_as_null(subject: str, fields: dict[str, Any]) -> None:
    nothing = dict.fromkeys(("sessionId", "timestamp", "eventId", "userId", "projectId"))
    for sent in (fields, fields | nothing):
        result = outcome(subject, sent)
        assert (result.stored, result.ids) == (1, [])
        assert all(row[1] == "s" or row[2] == "s" for those in result.rows.values() for row in those)
        assert all(STORED_US in row for those in result.rows.values() for row in those)


@EVERY_KIND
def test_the_event_id_counts_before_the_message_id_and_that_before_the_position(
    subject: str, fields: dict[str, Any]
) -> None:
    index = ":0" if subject == BATCH else ""
    named = {"Nats-Msg-Id": "m"}
    assert outcome(subject, fields | {"eventId": "e"}, {**named}).ids == [identity_key("e" + index)]
    assert outcome(subject, fields, {**named}).ids == [identity_key("m" + index)]
    replayed = {EVENT_ID_HEADER: "original", **named}
    assert outcome(subject, fields, {**replayed}).ids == [identity_key("original" + index)]
    assert outcome(subject, fields).ids == []


@EVERY_KIND
def test_an_identity_is_stored_once_in_a_batch_and_a_position_always(subject: str, fields: dict[str, Any]) -> None:
    again = message(subject, fields | {"eventId": "e"}, {"Nats-Msg-Id": "m-1"})
    twice = outcomes(again, again, message(subject, fields | {"eventId": "e"}))
    assert (twice.stored, twice.duplicate, twice.dead_messages, len(twice.ids)) == (1, 2, 0, 1)
    once = outcome(subject, fields | {"eventId": "e"})
    assert {table: len(those) for table, those in twice.rows.items()} == {
        table: len(those) for table, those in once.rows.items()
    }
    unnamed = outcomes(*[message(subject, fields)] * 3)
    assert (unnamed.stored, unnamed.duplicate, unnamed.ids) == (3, 0, [])


def test_an_identity_is_one_over_all_subjects_but_a_refused_event_claims_none() -> None:
    result = outcomes(
        message(USAGE, {"eventId": "e"}),
        message(USAGE, {"model": "m", "eventId": "e"}),
        message(TELEMETRY, {"kind": "k", "data": {}, "eventId": "e"}),
    )
    assert (result.stored, result.duplicate, result.dead_messages) == (1, 1, 1)
    assert result.rows.keys() == {"spark_usage"}


@pytest.mark.parametrize("fault", [b'"x":1e400', b'"x":"\\u0000"', b'"x":1e400,"\xff":1', b'"\xff":1', b'"x":"\xff"'])
@pytest.mark.parametrize("element", [b"7", b'{"kind":"k","data":{"y":1e400}}', b'{"kind":"k","data":{}}'])
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_with_a_fault_beside_its_elements_is_refused_whole(fault: bytes, element: bytes, first: bool) -> None:
    events = b'"events":[{"kind":"k","data":{}},' + element + b"]"
    found = outcome(BATCH, b"{" + b",".join((fault, events) if first else (events, fault)) + b"}")
    assert (found.stored, found.duplicate, found.dead_messages) == (0, 0, 1)
    assert not found.rows
    assert [letter.element for letter in found.dead] == [None]


def test_the_elements_of_a_batch_have_identities_of_their_own() -> None:
    element = {"kind": "k", "data": {}}
    events = [element, element | {"eventId": "mine"}, element | {"eventId": "mine"}]
    assert outcome(BATCH, {"events": events}).ids == [identity_key("mine")]
    named = outcome(BATCH, {"events": events, "eventId": "e"})
    assert named.ids == [identity_key("e:0"), identity_key("mine")]
    twice = outcomes(*[message(BATCH, {"events": events, "eventId": "e"})] * 2)
    assert (twice.stored, twice.duplicate, len(twice.rows["spark_telemetry"])) == (1, 1, 2)


@given(st.data())
def test_the_result_depends_on_the_messages_alone(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(SOUND), max_size=20))
    source = batch(*(message(subject, fields) for subject, fields in chosen))
    assert validate(source) == validate(source)
