"""What the outbox asks of an event before it takes it, and what becomes of one that JetStream refuses."""

import base64
import re
from typing import Final

import msgspec

from connectors.journal import Record

MAX_PAYLOAD: Final = 1 << 20
"""Bytes of an event, as the wire contract has it."""
_SUBJECT: Final = re.compile(r"spark(\.[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+)+")
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")


def problem(subject: str, payload: bytes, msg_id: str, headers: dict[str, str] | None) -> str | None:
    """Why these are no event: what the contract forbids, or the server ends the connection for."""
    if not _SUBJECT.fullmatch(subject) or len(subject.encode()) > 2000:
        return "no subject of an event: tokens below `spark.`, 2,000 bytes at most"
    if len(payload) > MAX_PAYLOAD:
        return f"{len(payload)} bytes are above the limit of 1 MiB"
    if not msg_id.strip() or len(msg_id) > 1000 or not _VALUE.fullmatch(msg_id):
        return "a message id is 1 to 1,000 characters, none of them control characters"
    for name, value in (headers or {}).items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(name) + len(value) > 4000:
            return f"{name[:100]!r} is no header: a name and a line of text, 4,000 characters at most"
    if headers and len(headers) > 16:
        return "more than 16 headers"
    return None


def size(payload: bytes, headers: dict[str, str]) -> int:
    """What NATS counts of a message."""
    return len(payload) + 14 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def letter(record: Record, error: str) -> bytes:
    """What `spark.dlq` gets of a record."""
    try:
        msgspec.json.decode(record.payload)
        payload: msgspec.Raw | str = msgspec.Raw(record.payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        payload = base64.b64encode(record.payload).decode()
    return msgspec.json.encode(
        {"subject": record.subject, "payload": payload, "error": error, "timestamp": record.accepted_ns // 1_000_000}
    )
