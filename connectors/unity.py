"""Calls of the Unity MCP server's tools.

One HTTP request is one call of MCP's `tools/call` (JSON-RPC 2.0), to a server that is stateless and answers in JSON,
and each names its project: a session that several projects share sends calls to the wrong one (ADR 8).

What can come of a call, as one tree:

    UnityError
    ├── UnityUnavailableError      no server: nothing was done, and repeating is safe
    │   └── UnityNoEditorError     no editor has the project open now, perhaps because it reloads its scripts
    ├── UnityBusyError             the editor compiles or runs tests: nothing was done, and repeating is safe
    ├── UnityOutcomeUnknownError   it was sent and nobody knows whether it was done: look before repeating
    ├── UnityRefusedError          Unity did not do it: it says why, and would again
    └── UnityAccessError           the server wants another UNITY_MCP_TOKEN

Guarantee: none. Whether a call may be repeated is for its caller to say, who knows what it does.
"""

import base64
import itertools
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
import msgspec
from pydantic import SecretStr

from connectors.errors import SlateError

CALL_TIMEOUT_S: Final = 30.0
"""How long a call may take, seconds."""
MAX_ANSWER: Final = 96 << 20
"""Largest answer, bytes: a picture of 4096x4096 that does not compress has 67 MB in base64."""
_CONNECT_TIMEOUT_S: Final = 3.0


class UnityError(SlateError):
    """A call of Unity did not succeed."""


class UnityUnavailableError(UnityError):
    """There is no server or no editor; nothing was done."""


class UnityNoEditorError(UnityUnavailableError):
    """No editor has the project open; nothing was done."""


class UnityBusyError(UnityError):
    """The editor does something that takes a while; nothing was done."""


class UnityOutcomeUnknownError(UnityError):
    """The call was sent, and no answer came: it may have been done, may be done yet, or not."""


class UnityRefusedError(UnityError):
    """Unity did not do it. `code` is its word for why, empty if it has none, `data` what it adds."""

    def __init__(self, message: str, code: str = "", data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data or {}


class UnityAccessError(UnityError):
    """The server does not take our token."""


class Answer(NamedTuple):
    """What a tool said."""

    data: Any
    """`data` of the result: an object for most tools, a list for some."""
    message: str = ""
    pending: bool = False
    """Whether what was begun goes on, to be asked for again."""
    image: bytes | None = None
    """A picture, PNG."""


class UnityServer:
    """A Unity MCP server; calls of any number of projects share its connections.

    Args:
        url: where it takes MCP requests; `/mcp` where it has no path.
        token: sent as `Authorization: Bearer` (a proxy's) and as `X-API-Key` (the server's own).
    """

    def __init__(self, url: str, token: SecretStr | None = None, *, connections: int = 100) -> None:
        parts = urlsplit(url)
        self._url = url if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/mcp"
        self.address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        """Host and port, without credentials."""
        headers = {"Accept": "application/json, text/event-stream"}
        if token is not None:
            value = token.get_secret_value()
            headers |= {"Authorization": f"Bearer {value}", "X-API-Key": value}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(CALL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=None)
        self._http = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)
        self._ids = itertools.count(1)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def healthy(self) -> bool:
        """Whether the server answers; it may still have no editor."""
        try:
            answer = await self._http.get(httpx.URL(self._url).join("/health"), timeout=_CONNECT_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def instances(self) -> list[str]:
        """The projects that editors have open, `Name@hash`; none where the server cannot be asked."""
        try:
            answer = await self._http.get(httpx.URL(self._url).join("/api/instances"), timeout=_CONNECT_TIMEOUT_S)
            listed = msgspec.json.decode(answer.content, type=_Instances).instances
        except (httpx.HTTPError, msgspec.DecodeError):
            return []
        return [f"{one.project}@{one.hash}" for one in listed]

    async def call(
        self, instance: str, tool: str, arguments: Mapping[str, Any], *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Answer:
        """Call a tool in one project (`Name@hash`).

        Raises:
            UnityError: as the module says.
        """
        params = {"name": tool, "arguments": {**arguments, "unity_instance": instance}}
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": "tools/call", "params": params}
        body = await self._post(request, timeout_s)
        try:
            message = msgspec.json.decode(body, type=_Message)
        except msgspec.DecodeError:
            raise UnityOutcomeUnknownError(
                f"{tool}: the Unity MCP server at {self.address} does not answer in JSON; start it with "
                "FASTMCP_STATELESS_HTTP=true and FASTMCP_JSON_RESPONSE=true, and check UNITY_MCP_URL"
            ) from None
        if message.error is not None:
            raise UnityRefusedError(f"{tool}: {message.error.message}", str(message.error.code))
        if message.result is None:
            raise UnityOutcomeUnknownError(f"{tool}: the Unity MCP server's answer has no result")
        return _answer(tool, instance, message.result)

    async def _post(self, request: Mapping[str, Any], timeout_s: float) -> bytes:
        tool = request["params"]["name"]
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None)
        try:
            async with self._http.stream("POST", self._url, json=request, timeout=timeout) as answer:
                _check_status(tool, self.address, answer.status_code)
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise UnityOutcomeUnknownError(f"{tool}: the answer has more than {MAX_ANSWER >> 20} MiB")
                return bytes(body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnityUnavailableError(
                f"no Unity MCP server at {self.address} ({type(error).__name__}): start it, or check UNITY_MCP_URL"
            ) from None
        except httpx.TimeoutException:
            raise UnityOutcomeUnknownError(f"{tool}: no answer within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise UnityOutcomeUnknownError(
                f"{tool}: the Unity MCP server went away before it answered ({type(error).__name__})"
            ) from None


def _check_status(tool: str, address: str, status: int) -> None:
    if status < 300:
        return
    if status in (401, 403):
        raise UnityAccessError(f"the Unity MCP server at {address} refuses us ({status}): check UNITY_MCP_TOKEN")
    if status == 503:
        raise UnityUnavailableError(f"the Unity MCP server at {address} takes no calls now (503)")
    if status >= 500:
        raise UnityOutcomeUnknownError(f"{tool}: the Unity MCP server at {address} failed ({status})")
    raise UnityRefusedError(
        f"{tool}: {address} does not take MCP calls as they should be ({status}); check UNITY_MCP_URL, and start the "
        "server with FASTMCP_STATELESS_HTTP=true",
        str(status),
    )


class _Fault(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Content(msgspec.Struct):
    type: str
    text: str = ""
    data: str = ""


class _Result(msgspec.Struct, rename="camel"):
    content: list[_Content] = []
    structured_content: dict[str, Any] | None = None
    is_error: bool = False


class _Instance(msgspec.Struct):
    project: str = ""
    hash: str = ""


class _Instances(msgspec.Struct):
    instances: list[_Instance] = []


class _Message(msgspec.Struct):
    result: _Result | None = None
    error: _Fault | None = None


def _answer(tool: str, instance: str, result: _Result) -> Answer:
    text = next((one.text for one in result.content if one.type == "text"), "")
    if result.is_error:
        _raise_protocol_error(tool, instance, text)
    said = result.structured_content
    if said is None:
        try:
            said = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            raise UnityOutcomeUnknownError(f"{tool}: the answer is no object: {text[:200]!r}") from None
    if said.get("success") is not True:
        _raise_failure(tool, said)
    picture = next((one.data for one in result.content if one.type == "image"), None)
    return Answer(
        said.get("data") or {},
        str(said.get("message") or ""),
        said.get("_mcp_status") == "pending",
        base64.b64decode(picture) if picture is not None else None,
    )


def _raise_protocol_error(tool: str, instance: str, text: str) -> None:
    """What `isError` says: an instance that is not there, or a call that the server does not know.

    The server has no code for it; its words decide between two errors that are neither repeated blindly.
    """
    if text.startswith(f"Instance '{instance}' not found"):
        raise UnityNoEditorError(f"no Unity editor has the project {instance} open")
    if "API key" in text:
        raise UnityAccessError("the Unity MCP server refuses us: check UNITY_MCP_TOKEN")
    raise UnityRefusedError(f"{tool}: {text[:500]}", "protocol")


def _raise_failure(tool: str, said: Mapping[str, Any]) -> None:
    code = str(said.get("code") or said.get("error") or "")
    data = said.get("data") if isinstance(said.get("data"), dict) else {}
    text = str(said.get("message") or code or "no reason was given")
    if code == "auth_required":
        raise UnityAccessError("the Unity MCP server wants a key: set UNITY_MCP_TOKEN")
    if said.get("hint") != "retry":
        raise UnityRefusedError(f"{tool}: {text[:500]}", code, data)
    reason = (data or {}).get("reason")
    if code == "busy":
        raise UnityBusyError(f"the Unity editor is busy: {reason or text}")
    if reason in ("no_unity_session", "reloading"):
        raise UnityNoEditorError(f"no Unity editor is there ({reason})")
    raise UnityOutcomeUnknownError(f"{tool}: {text[:500]}")
