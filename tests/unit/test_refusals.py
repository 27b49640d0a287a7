"""What the wire contract refuses: each refusal with its stage, code, path, and a reason that a person understands."""

from typing import Any

import pytest

from flows.events import identity_key
from flows.validate import refused_by_store
from tests.support.messages import AT_MS, EVERY_KIND, batch, message, outcome, refusal

CALL = "spark.function_call.s"
TELEMETRY = "spark.telemetry.s"
BATCH = "spark.telemetry.batch.s"
USAGE = "spark.usage.s"
FRAME = "spark.preview.unity.frame.s"


@EVERY_KIND
@pytest.mark.parametrize(
    ("wrong", "code", "path", "reason"),
    [
        ({"sessionId": ""}, "out_of_range", "$.sessionId", "length >= 1"),
        ({"sessionId": "other"}, "session", "$.sessionId", "sessionId 'other' contradicts the subject's 's'"),
        ({"sessionId": 7}, "wrong_type", "$.sessionId", "Expected str | null, got int"),
        ({"eventId": ""}, "out_of_range", "$.eventId", "length >= 1"),
        ({"eventId": "e" * 256}, "out_of_range", "$.eventId", "length <= 255"),
        ({"eventId": 7}, "wrong_type", "$.eventId", "Expected str | null, got int"),
        ({"userId": "me"}, "wrong_type", "$.userId", "'me' is not a UUID"),
        ({"projectId": ""}, "wrong_type", "$.projectId", "'' is not a UUID"),
        ({"timestamp": "yesterday"}, "wrong_type", "$.timestamp", "Expected int | float | null, got str"),
        ({"timestamp": True}, "wrong_type", "$.timestamp", "Expected int | float | null, got bool"),
    ],
)
def test_what_every_payload_may_carry_is_checked_in_every_kind(
    subject: str, fields: dict[str, Any], wrong: dict[str, Any], code: str, path: str, reason: str
) -> None:
    letter = refusal(subject, fields | wrong)
    assert (letter.stage, letter.code, letter.path) == ("validate", code, path)
    assert reason in letter.reason


def test_an_impossible_message_id_is_refused_only_where_it_is_needed() -> None:
    assert refusal(USAGE, {"model": "m"}, {"Nats-Msg-Id": b"\xff"}).code == "identity"
    assert outcome(USAGE, {"model": "m", "eventId": "e"}, {"Nats-Msg-Id": b"\xff"}).stored == 1


@pytest.mark.parametrize(
    ("subject", "fields", "code", "path", "reason"),
    [
        ("spark.session.connected.s", {"mode": "wild"}, "unknown_value", "$.mode", "Invalid enum value 'wild'"),
        ("spark.session.connected.s", {"type": "disconnected"}, "unknown_value", "$.type", "contradicts the subject's"),
        ("spark.session.disconnected.s", {"type": "gone"}, "unknown_value", "$.type", "Invalid enum value 'gone'"),
        ("spark.session.connected.s", {"model": ""}, "out_of_range", "$.model", "length >= 1"),
        (CALL, {"callId": "c", "status": "success"}, "missing", "$", "missing required field name"),
        (CALL, {"callId": "c", "name": "n"}, "missing", "$", "missing required field status"),
        (CALL, {"functionName": "n"}, "missing", "$", "missing required field result"),
        (CALL, {"functionName": "n", "result": None}, "missing", "$", "missing required field result"),
        (CALL, {"functionName": "n", "result": "ok"}, "wrong_type", "$.result", "Expected object, got a string"),
        (CALL, {"callId": "", "name": "n", "status": "success"}, "out_of_range", "$.callId", "length >= 1"),
        (CALL, {"callId": "c" * 256, "name": "n", "status": "failed"}, "out_of_range", "$.callId", "length <= 255"),
        (CALL, {"name": "n", "status": "ok"}, "unknown_value", "$.status", "Invalid enum value 'ok'"),
        (CALL, {"name": "n", "status": "success", "durationMs": "12"}, "wrong_type", "$.durationMs", "got str"),
        (CALL, {"name": "n", "status": "success", "durationMs": 1.5}, "wrong_type", "$.durationMs", "got float"),
        (CALL, {"name": "n", "status": "success", "durationMs": -1}, "out_of_range", "$.durationMs", ">= 0"),
        (
            CALL,
            {"name": "n", "status": "success", "durationMs": 2**31},
            "out_of_range",
            "$.durationMs",
            "<= 2147483647",
        ),
        (CALL, {"name": "n", "status": "success", "type": "call"}, "unknown_value", "$.type", "'call'"),
        (TELEMETRY, {"data": {}}, "missing", "$", "missing required field kind"),
        (TELEMETRY, {"kind": "k"}, "missing", "$", "missing required field data"),
        (TELEMETRY, {"kind": "k", "data": None}, "wrong_type", "$.data", "Expected object, got null"),
        (TELEMETRY, {"kind": "k", "data": [60]}, "wrong_type", "$.data", "Expected object, got an array"),
        (BATCH, {"events": []}, "empty", "$.events", "the batch is empty"),
        (BATCH, {"events": {}}, "wrong_type", "$.events", "Expected array, got object"),
        (BATCH, {}, "missing", "$", "missing required field events"),
        (USAGE, {}, "missing", "$", "missing required field model"),
        (USAGE, {"model": "m", "tokensPrompt": -1}, "out_of_range", "$.tokensPrompt", ">= 0"),
        (USAGE, {"model": "m", "tokensCompletion": 2**63}, "out_of_range", "$.tokensCompletion", "<= 2147483647"),
        (USAGE, {"model": "m", "tokensPrompt": None}, "wrong_type", "$.tokensPrompt", "Expected int, got null"),
        (
            USAGE,
            {"model": "m", "costEstimate": -0.1},
            "out_of_range",
            "$.costEstimate",
            "costEstimate -0.1 is not between",
        ),
        (USAGE, {"model": "m", "costEstimate": 1e6}, "out_of_range", "$.costEstimate", "999999.999999"),
        (USAGE, {"model": "m", "costEstimate": "0.5"}, "wrong_type", "$.costEstimate", "Expected number, got str"),
        (USAGE, {"model": "m", "costEstimate": "NaN"}, "wrong_type", "$.costEstimate", "Expected number, got str"),
        (FRAME, {}, "missing", "$", "missing required field status (or type)"),
        (FRAME, {"status": "ready"}, "missing", "$", "missing required field engine"),
        (FRAME, {"engine": "unreal", "status": "ready"}, "unknown_value", "$.engine", "'unreal'"),
        (FRAME, {"engine": "unity", "status": "shown"}, "unknown_value", "$.status", "'shown'"),
        (FRAME, {"type": "preview.paused"}, "unknown_value", "$.type", "unknown preview type 'preview.paused'"),
        (FRAME, {"type": "preview.frame", "meta": 7}, "wrong_type", "$.meta", "Expected object, got a number"),
        ("spark.runtime.unity.x.s", {}, "missing", "$", "missing required field type"),
        ("spark.runtime.unity.x.s", {"type": "t", "scriptName": 7}, "wrong_type", "$.scriptName", "got int"),
        ("spark.build.unity.started.s", {}, "missing", "$", "missing required field jobId"),
        ("spark.build.unity.started.s", {"jobId": ""}, "out_of_range", "$.jobId", "length >= 1"),
        ("spark.build.unity.started.s", {"jobId": "j", "progress": 101}, "out_of_range", "$.progress", "<= 100"),
        ("spark.build.unity.started.s", {"jobId": "j", "status": "paused"}, "unknown_value", "$.status", "'paused'"),
        (
            "spark.build.unity.started.s",
            {"jobId": "j", "type": "build_failed"},
            "unknown_value",
            "$.type",
            "contradicts",
        ),
        ("spark.delta.s", {}, "missing", "$", "missing required field delta"),
        ("spark.delta.s", {"delta": "Hel"}, "wrong_type", "$.delta", "Expected object, got a string"),
        ("spark.delta.s", {"delta": None}, "wrong_type", "$.delta", "Expected object, got null"),
        ("spark.delta.s", {"delta": {}, "type": "connection_error"}, "unknown_value", "$.type", "'connection_error'"),
        ("spark.error.s", {}, "missing", "$", "missing required field error"),
        ("spark.presence.s", {}, "missing", "$", "missing required field type"),
        ("spark.presence.s", {"type": ""}, "out_of_range", "$.type", "length >= 1"),
        ("spark.presence.s", {"type": "t" * 256}, "out_of_range", "$.type", "length <= 255"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_its_path_and_in_words(
    subject: str, fields: dict[str, Any], code: str, path: str, reason: str
) -> None:
    letter = refusal(subject, fields)
    assert (letter.stage, letter.code, letter.path, letter.element) == ("validate", code, path, None)
    assert reason in letter.reason


@pytest.mark.parametrize(("cost", "stored"), [(b"999999.9999994", 1), (b"999999.9999995", 0), (b"1e-16000", 1)])
def test_a_cost_is_refused_where_rounding_to_six_places_overflows_its_column(cost: bytes, stored: int) -> None:
    assert outcome(USAGE, b'{"model":"m","costEstimate":' + cost + b"}").stored == stored


def test_an_unknown_value_cannot_forge_the_path_or_the_code_of_its_refusal() -> None:
    letter = refusal(CALL, {"name": "n", "status": "missing required - at `$.forged` " + "x" * 100_000})
    assert (letter.code, letter.path) == ("unknown_value", "$.status")
    assert len(letter.reason) <= 500


@pytest.mark.parametrize(
    ("bad", "code", "path"),
    [
        (b'{"kind":7,"data":{}}', "wrong_type", "$.events[1].kind"),
        (b'{"kind":"k","data":[60]}', "wrong_type", "$.events[1].data"),
        (b'{"kind":"k","data":null}', "wrong_type", "$.events[1].data"),
        (b'{"kind":"k"}', "missing", "$.events[1]"),
        (b'{"kind":"","data":{}}', "out_of_range", "$.events[1].kind"),
        (b'{"kind":"k","data":{},"sessionId":""}', "out_of_range", "$.events[1].sessionId"),
        (b'{"kind":"k","data":{},"timestamp":1}', "event_time", "$.events[1].timestamp"),
        (b'{"kind":"k","data":{},"userId":"me"}', "wrong_type", "$.events[1].userId"),
        (b'{"kind":"k","data":{"x":"\\u0000"}}', "nul", "$.events[1]"),
        (b'{"kind":"k","data":{"x":1e400}}', "out_of_range", "$.events[1]"),
        (b'{"kind":"k","data":{"x":1e-20000}}', "out_of_range", "$.events[1]"),
        (b"null", "wrong_type", "$.events[1]"),
        (b"[]", "wrong_type", "$.events[1]"),
    ],
)
def test_a_bad_element_is_a_dead_letter_alone_with_its_index_and_path(bad: bytes, code: str, path: str) -> None:
    good = b'{"kind":"good","data":{}}'
    envelope = b'{"eventId":"e","timestamp":%d,"events":[%%s]}' % AT_MS
    result = outcome(BATCH, envelope % b", ".join((good, bad, good)), {"Nats-Msg-Id": "m"})
    assert (result.stored, result.duplicate, result.dead_messages) == (1, 0, 0)
    assert [row[2] for row in result.rows["spark_telemetry"]] == ["good", "good"]
    assert result.ids == [identity_key("e:0"), identity_key("e:2")]
    (letter,) = result.dead
    assert (letter.stage, letter.code, letter.element) == ("validate", code, 1)
    assert letter.path.startswith(path)
    assert letter.message.headers == result.batch.messages[0].headers
    assert letter.message.payload == (b'{"eventId":"e","timestamp":%d,"events":[%s]}' % (AT_MS, bad))


def test_the_dead_letters_of_a_batch_are_together_no_larger_than_the_batch_and_its_headers() -> None:
    elements = [{"kind": "k", "data": "x" * 400} for _ in range(500)]
    result = outcome(BATCH, {"eventId": "e" * 200, "unknown": "x" * 1000, "events": elements})
    assert (result.stored, result.duplicate, result.dead_messages) == (0, 0, 1)
    assert [letter.element for letter in result.dead] == list(range(500))
    assert sum(len(letter.message.payload) for letter in result.dead) < 500 * 700


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"subject":"spark.usage.s","error":"timeout"}', "a publisher could not deliver it: timeout"),
        (b'{"subject":"spark.usage.s","error":{"code":7}}', 'a publisher could not deliver it: {"code":7}'),
        (b'{"subject":"spark.usage.s"}', "a publisher could not deliver it"),
        (b"[]", "a publisher could not deliver it"),
        (b"", "a publisher could not deliver it"),
        (b"\xff\0", "a publisher could not deliver it"),
        (b"[" * 100_000, "a publisher could not deliver it"),
        (b'{"error":"\\ud800"}', "a publisher could not deliver it"),
        (b'{"error":"' + b"x" * 2_000_000 + b'"}', "a publisher could not deliver it: " + "x" * 500),
    ],
)
def test_what_publishers_could_not_deliver_is_a_dead_letter_as_it_is(payload: bytes, reason: str) -> None:
    letter = refusal("spark.dlq", payload, {"Nats-Msg-Id": "m"})
    assert (letter.stage, letter.code, letter.message.payload) == ("publisher", "publisher", payload)
    assert letter.reason == reason


def test_a_message_that_postgresql_refuses_is_a_dead_letter_with_its_sqlstate() -> None:
    source = batch(message(USAGE, {"model": "m"}))
    result = refused_by_store(source, "22003", "value overflows numeric format")
    assert (result.stored, result.duplicate, result.dead_messages, result.rows) == (0, 0, 1, {})
    (letter,) = result.dead
    assert (letter.stage, letter.code, letter.message) == ("store", "22003", source.messages[0])
    assert letter.reason == "PostgreSQL refused it: value overflows numeric format"
