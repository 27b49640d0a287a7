"""A stand-in for the OpenAI Realtime API (its WebSocket protocol), on this machine only.

Every frame that it sends is validated strictly against the openai package's own types, so a script that drifts from
the wire fails here. There is no model: turns are scripted, or a `brain` makes each from the conversation so far.

    async with FakeRealtime([Turn(calls=[Call("f", {"x": 1})]), Turn(text="ok")]) as server:
        client = AsyncOpenAI(api_key="sk-test", websocket_base_url=server.ws_url)

    python -m tests.standins.realtime --port 8765     with the brain of the demo, until Ctrl-C

One `response.create` takes one turn. Modelled on the real service:
  * no OpenAI-Beta header            -> else error + close 4000
  * session.type required, unknown session/response keys rejected (unknown_parameter)
  * one active response per default conversation (conversation_already_has_active_response)
  * response.cancel with nothing running   -> response_cancel_not_active
  * function_call_output for an unknown id -> invalid_tool_call_id
  * drop (no close frame, client sees 1006), close with a code, session cap (1001)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from openai.types.realtime import RealtimeResponseCreateParams, RealtimeSessionCreateRequest
from openai.types.realtime.realtime_client_event import RealtimeClientEvent
from openai.types.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.standins.brain import Call, Turn, demo_brain

SERVER = TypeAdapter(RealtimeServerEvent)
CLIENT = TypeAdapter(RealtimeClientEvent)
SESSION_FIELDS = frozenset(RealtimeSessionCreateRequest.model_fields)
RESPONSE_FIELDS = frozenset(RealtimeResponseCreateParams.model_fields)


Brain = Callable[[list[dict[str, Any]]], Turn]
"""Makes a turn from the conversation's items, oldest first."""

RATE_LIMITS = [
    {"name": "requests", "limit": 5000, "remaining": 4999, "reset_seconds": 0.012},
    {"name": "tokens", "limit": 40000, "remaining": 38976, "reset_seconds": 1.536},
]


class FakeRealtime:
    def __init__(
        self,
        turns: list[Turn] | None = None,
        *,
        api_key: str | None = None,
        close_after: tuple[float, int, str] | None = None,
        brain: Brain | None = None,
        checked: bool = True,
        refuse_update: str | None = None,
        port: int = 0,
    ) -> None:
        self.turns = list(turns or [])
        self.brain = brain
        self.checked = checked  # else frames are neither validated nor kept, as a program for days needs it
        self.refuse_update = refuse_update  # error code with which every session.update is refused
        self.port = port
        self.connections: set[ServerConnection] = set()
        self.api_key = api_key  # None = accept any bearer token
        self.close_after = close_after  # (seconds, code, reason), e.g. the session cap
        self.received: list[list[dict[str, Any]]] = []  # client events, per connection
        self.handshakes: list[dict[str, Any]] = []  # path, query, headers, per connection
        self.sent: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._server: Any = None

    # -- lifecycle ---------------------------------------------------------
    async def __aenter__(self) -> FakeRealtime:
        quiet = logging.getLogger("fake_realtime.ws")
        quiet.setLevel(logging.CRITICAL)
        self._server = await serve(
            self._serve, "127.0.0.1", self.port, process_request=self._admit, max_size=None, logger=quiet
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def ws_url(self) -> str:  # AsyncOpenAI(websocket_base_url=...)
        return f"ws://127.0.0.1:{self.port}/v1"

    @property
    def http_url(self) -> str:  # AsyncOpenAI(base_url=...) works too: http -> ws
        return f"http://127.0.0.1:{self.port}/v1"

    def _admit(self, ws: ServerConnection, request: Any) -> Any:
        shake = _handshake(request)
        if self.checked:
            self.handshakes.append(shake)
        if shake["path"] != "/v1/realtime":
            return ws.respond(HTTPStatus.NOT_FOUND, "not found\n")
        auth = shake["headers"].get("authorization", "")
        if not auth.startswith("Bearer ") or (self.api_key and auth != f"Bearer {self.api_key}"):
            return ws.respond(HTTPStatus.UNAUTHORIZED, '{"error":{"code":"invalid_api_key"}}\n')
        return None

    async def _serve(self, ws: ServerConnection) -> None:
        shake = _handshake(ws.request)
        log: list[dict[str, Any]] = []
        if self.checked:
            self.received.append(log)
        conn = _Connection(self, ws, shake["query"].get("model", ["gpt-realtime-2.1"])[0])
        self.connections.add(ws)
        with contextlib.suppress(ConnectionClosed):
            if "openai-beta" in shake["headers"]:
                code = "beta_api_shape_disabled"
                await conn.error("The Realtime Beta API is no longer supported.", code)
                await ws.close(4000, f"invalid_request_error.{code}")
                return
            await conn.run(log)
        self.connections.discard(ws)

    def drop_all(self) -> None:
        """Cut every connection without a close frame."""
        for ws in list(self.connections):
            ws.transport.abort()


def _handshake(request: Any) -> dict[str, Any]:
    parts = urlsplit(request.path)
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    return {"path": parts.path, "query": parse_qs(parts.query), "headers": headers}


class _Connection:
    def __init__(self, server: FakeRealtime, ws: ServerConnection, model: str) -> None:
        self.srv, self.ws = server, ws
        self.session: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": self.id("sess"),
            "model": model,
            "output_modalities": ["audio"],
            "instructions": "(server default)",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tracing": None,
            "expires_at": int(time.time()) + 3600,
        }
        self.items: list[str] = []
        self.conversation: list[dict[str, Any]] = []
        self.call_ids: set[str] = set()
        self.active: asyncio.Task[None] | None = None
        self.cancelled = asyncio.Event()

    def id(self, prefix: str) -> str:
        return f"{prefix}_{next(self.srv._ids):06d}"

    # -- wire --------------------------------------------------------------
    async def send(self, type_: str, **body: Any) -> None:
        event = {"type": type_, "event_id": self.id("event"), **body}
        if self.srv.checked:
            SERVER.validate_python(event)  # drift from the package's types raises here
            self.srv.sent.append(event)
        await self.ws.send(json.dumps(event))

    async def error(
        self,
        message: str,
        code: str,
        *,
        param: str | None = None,
        event_id: str | None = None,
        type_: str = "invalid_request_error",
    ) -> None:
        await self.send(
            "error", error={"type": type_, "code": code, "message": message, "param": param, "event_id": event_id}
        )

    async def run(self, log: list[dict[str, Any]]) -> None:
        await self.send("session.created", session=self.session)
        timer = asyncio.create_task(self._expire()) if self.srv.close_after else None
        try:
            async for raw in self.ws:
                event = json.loads(raw)
                if self.srv.checked:
                    log.append(event)
                await self._handle(event)
        finally:
            for task in (timer, self.active):
                if task:
                    task.cancel()

    async def _expire(self) -> None:
        assert self.srv.close_after
        seconds, code, reason = self.srv.close_after
        await asyncio.sleep(seconds)
        if code == 1001:
            await self.error(reason, "session_expired")
        await self.ws.close(code, reason)

    # -- client events -----------------------------------------------------
    async def _handle(self, event: dict[str, Any]) -> None:
        eid, kind = event.get("event_id"), event.get("type")
        if kind == "session.update":
            return await self._session_update(event.get("session") or {}, eid)
        try:
            CLIENT.validate_python(event)
        except ValidationError:
            return await self.error(f"Invalid value: '{kind}'", "invalid_value", param="type", event_id=eid)
        if kind == "conversation.item.create":
            await self._item_create(dict(event["item"]), eid)
        elif kind == "response.create":
            await self._response_create(event.get("response") or {}, eid)
        elif kind == "response.cancel":
            if self.active and not self.active.done():
                self.cancelled.set()
            else:
                await self.error(
                    "Cancellation failed: no active response found", "response_cancel_not_active", event_id=eid
                )
        elif kind == "conversation.item.delete":
            await self.send("conversation.item.deleted", item_id=event["item_id"])

    async def _session_update(self, new: dict[str, Any], eid: str | None) -> None:
        if self.srv.refuse_update:
            return await self.error("refused", self.srv.refuse_update, event_id=eid)
        if new.get("type") != "realtime":
            return await self.error(
                "Missing required parameter: 'session.type'.",
                "missing_required_parameter",
                param="session.type",
                event_id=eid,
            )
        for key in new:
            if key not in SESSION_FIELDS:
                return await self.error(
                    f"Unknown parameter: 'session.{key}'.", "unknown_parameter", param=f"session.{key}", event_id=eid
                )
        try:
            RealtimeSessionCreateRequest.model_validate(new)
        except ValidationError as exc:
            where = ".".join(str(p) for p in exc.errors()[0]["loc"] if isinstance(p, str) and p.islower())
            return await self.error(
                f"Invalid value for 'session.{where}'.", "invalid_value", param=f"session.{where}", event_id=eid
            )
        if new.get("model", self.session["model"]) != self.session["model"]:
            return await self.error(
                "Cannot update a session's model.", "invalid_model", param="session.model", event_id=eid
            )
        self.session.update(new)  # only the fields present change
        await self.send("session.updated", session=self.session)

    async def _item_create(self, item: dict[str, Any], eid: str | None) -> None:
        if item["type"] == "function_call_output" and item["call_id"] not in self.call_ids:
            return await self.error(
                f"Tool call ID '{item['call_id']}' not found in conversation.", "invalid_tool_call_id", event_id=eid
            )
        if item["type"] == "function_call":  # re-seeding history on a new session
            self.call_ids.add(item.get("call_id") or "")
        item = {"id": self.id("item"), "object": "realtime.item", "status": "completed", **item}
        await self._item_events(item)

    async def _item_events(self, item: dict[str, Any], *, added: bool = True, done: bool = True) -> None:
        prev = self.items[-1] if self.items else None
        if done:
            self.conversation.append(item)
        if added:
            self.items.append(item["id"])
            await self.send("conversation.item.added", previous_item_id=prev, item=item)
        if done:
            await self.send("conversation.item.done", previous_item_id=prev, item=item)

    # -- responses ---------------------------------------------------------
    async def _response_create(self, params: dict[str, Any], eid: str | None) -> None:
        for key in params:
            if key not in RESPONSE_FIELDS:
                return await self.error(
                    f"Unknown parameter: 'response.{key}'.", "unknown_parameter", param=f"response.{key}", event_id=eid
                )
        if self.active and not self.active.done():
            return await self.error(
                "Conversation already has an active response in progress. "
                "Wait until the response is finished before creating a new one.",
                "conversation_already_has_active_response",
                event_id=eid,
            )
        if self.srv.brain is not None:
            turn = self.srv.brain(self.conversation)
        else:
            turn = self.srv.turns.pop(0) if self.srv.turns else Turn(text="(no script left)")
        self.cancelled.clear()
        self.active = asyncio.create_task(self._respond(turn, params))

    def _response(self, rid: str, status: str, params: dict[str, Any], **extra: Any) -> dict[str, Any]:
        return {
            "id": rid,
            "object": "realtime.response",
            "status": status,
            "status_details": None,
            "conversation_id": "conv_000001",
            "output_modalities": params.get("output_modalities") or self.session["output_modalities"],
            "max_output_tokens": params.get("max_output_tokens") or self.session["max_output_tokens"],
            "metadata": params.get("metadata"),
            "output": [],
            "usage": None,
            **extra,
        }

    async def _respond(self, turn: Turn, params: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._respond_inner(turn, params)

    async def _respond_inner(self, turn: Turn, params: dict[str, Any]) -> None:
        rid, deltas = self.id("resp"), 0
        output: list[dict[str, Any]] = []
        await self.send("response.created", response=self._response(rid, "in_progress", params))
        await self.send("rate_limits.updated", rate_limits=turn.rate_limits or RATE_LIMITS)
        if turn.close:
            await self.ws.close(*turn.close)
            return
        if turn.error_event:
            await self.send("error", error=turn.error_event)

        async def pace() -> bool:
            """True when generation must stop (dropped or cancelled)."""
            nonlocal deltas
            if turn.drop_after is not None and deltas >= turn.drop_after:
                self.ws.transport.abort()  # RST: no close frame, client sees 1006
                return True
            deltas += 1
            if turn.delay:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.cancelled.wait(), turn.delay)
            return self.cancelled.is_set()

        stopped = False
        last = "incomplete" if turn.status == "incomplete" else "completed"
        pieces: list[Call | str] = ([turn.text] if turn.text else []) + list(turn.calls)
        for index, piece in enumerate(pieces):
            base = {"response_id": rid, "output_index": index}
            status = last if piece is pieces[-1] else "completed"
            if isinstance(piece, str):
                item: dict[str, Any] = {
                    "id": self.id("item"),
                    "object": "realtime.item",
                    "type": "message",
                    "role": "assistant",
                    "status": "in_progress",
                    "content": [],
                }
                part = {**base, "item_id": item["id"], "content_index": 0}
                await self.send("response.output_item.added", **base, item=item)
                await self._item_events(item, done=False)
                await self.send("response.content_part.added", **part, part={"type": "text", "text": ""})
                said = ""
                for i in range(0, len(piece), turn.chunk):
                    if stopped := await pace():
                        break
                    said += piece[i : i + turn.chunk]
                    await self.send("response.output_text.delta", **part, delta=piece[i : i + turn.chunk])
                if stopped and not self.cancelled.is_set():
                    return  # dropped
                await self.send("response.output_text.done", **part, text=said)
                await self.send("response.content_part.done", **part, part={"type": "text", "text": said})
                item = {**item, "content": [{"type": "output_text", "text": said}]}
            else:
                call_id = piece.call_id or self.id("call")
                item = {
                    "id": self.id("item"),
                    "object": "realtime.item",
                    "type": "function_call",
                    "status": "in_progress",
                    "name": piece.name,
                    "call_id": call_id,
                    "arguments": "",
                }
                call = {**base, "item_id": item["id"], "call_id": call_id}
                await self.send("response.output_item.added", **base, item=item)
                await self._item_events(item, done=False)
                said = ""
                for i in range(0, len(piece.raw), turn.chunk):
                    if stopped := await pace():
                        break
                    said += piece.raw[i : i + turn.chunk]
                    await self.send(
                        "response.function_call_arguments.delta", **call, delta=piece.raw[i : i + turn.chunk]
                    )
                if stopped and not self.cancelled.is_set():
                    return
                # .done fires for interrupted calls too, with partial arguments
                await self.send("response.function_call_arguments.done", **call, name=piece.name, arguments=said)
                item = {**item, "arguments": said}
                self.call_ids.add(call_id)
            item["status"] = "incomplete" if stopped else status
            await self.send("response.output_item.done", **base, item=item)
            await self._item_events(item, added=False)
            output.append(item)
            if stopped:
                break

        final = turn.status
        details: dict[str, Any] | None = None
        if self.cancelled.is_set():
            final, details = "cancelled", {"type": "cancelled", "reason": "client_cancelled"}
        elif final == "incomplete":
            details = {"type": "incomplete", "reason": turn.reason or "max_output_tokens"}
        elif final == "failed":
            details = {
                "type": "failed",
                "error": turn.error or {"type": "server_error", "code": "server_error", "message": "scripted failure"},
            }
        self.active = None  # before response.done, so the client may create at once
        await self.send(
            "response.done",
            response=self._response(rid, final, params, status_details=details, output=output, usage=turn.usage),
        )


def main() -> None:
    """Serve with the brain of the demo until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Stand-in for the OpenAI Realtime API.")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()

    async def run() -> None:
        async with FakeRealtime(brain=demo_brain, port=arguments.port, checked=False):
            await asyncio.get_running_loop().create_future()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
