"""What SPARK does in a Unity project, through the tools of the Unity MCP server.

One bridge is one project (`Name@hash`), and names it in every call. Guarantee: nothing is done twice. A call is sent
again only when nothing was done (no server, no editor, busy), or when it only reads; where the outcome is not known,
the bridge looks in the project first, and says so when it cannot.

A circuit breaker for each project stands in front of the calls. It counts what says that the other side is not well:
no server, no editor, no answer. An editor that refuses, or is busy, has answered.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import stamina
import structlog

from connectors.breaker import Breaker
from connectors.errors import SlateError
from connectors.frames import FrameStore
from connectors.tracing import OFF, Span, Tracing
from connectors.unity import (
    CALL_TIMEOUT_S,
    Answer,
    UnityBusyError,
    UnityError,
    UnityNoEditorError,
    UnityOutcomeUnknownError,
    UnityRefusedError,
    UnityServer,
    UnityUnavailableError,
)
from realtime.builds import Build, OnBuild, build_of
from realtime.patch import edits_of, patched
from realtime.preview_cache import PreviewCache, View

ATTEMPTS: Final = 3
"""How often a call is made that may be repeated: after 1 s, then 2, up to 10, with jitter."""
EDITOR_WAIT_S: Final = 20.0
"""How long an editor that is not there is waited for: it goes away for seconds whenever it reloads scripts."""
DEADLINE_S: Final = 45.0
"""When no further attempt begins, seconds after the first."""
_ANSWERS_BY_S: Final = CALL_TIMEOUT_S + 5.0
"""The server says after 30 s that Unity did not answer or is busy; giving up just then would not hear it."""

_LOOK_S: Final = 0.25

_log = structlog.get_logger(__name__)


class Written(NamedTuple):
    """A script as it is in the project."""

    path: str
    sha256: str
    change: Literal["created", "updated", "unchanged", "patched"]


class Preview(NamedTuple):
    """A picture of a camera's view."""

    frame_ref: str
    cached: bool
    width: int
    height: int


def counts(error: BaseException) -> bool:
    """Whether the breaker takes an error for a failure of the other side."""
    return isinstance(error, (UnityUnavailableError, UnityOutcomeUnknownError))


def _nothing_done(error: Exception) -> bool:
    # An editor that is not there was waited for already.
    return isinstance(error, (UnityUnavailableError, UnityBusyError)) and not isinstance(error, UnityNoEditorError)


def _repeatable_read(error: Exception) -> bool:
    return _nothing_done(error) or isinstance(error, UnityOutcomeUnknownError)


class UnityBridge:
    """One project in a Unity editor.

    Args:
        server: shared by all bridges of a process.
        instance: the project, `Name@hash`.
        breaker: of this project, shared by all processes.
        frames: where pictures are kept.
        cache: pictures of a project that has not changed.
        editor_wait_s: how long an editor that is not there is waited for, seconds.
        build_poll_s: how often a build is asked for, seconds.
        build_timeout_s: when a build counts as timed out, seconds.
        tracing: is told of each call.
    """

    def __init__(
        self,
        server: UnityServer,
        instance: str,
        *,
        breaker: Breaker,
        frames: FrameStore,
        cache: PreviewCache,
        editor_wait_s: float = EDITOR_WAIT_S,
        build_poll_s: float = 5.0,
        build_timeout_s: float = 1800.0,
        tracing: Tracing = OFF,
    ) -> None:
        self.instance = instance
        self._server = server
        self._breaker = breaker
        self._frames = frames
        self._cache = cache
        self._editor_wait_s = editor_wait_s
        self._build_poll_s = build_poll_s
        self._build_timeout_s = build_timeout_s
        self._tracing = tracing
        self._polls: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop following builds; they go on in Unity, and `build_status` tells of them later."""
        for job_id, task in self._polls.items():
            if not task.done():
                _log.warning("a build goes on unfollowed", instance=self.instance, job_id=job_id)
            task.cancel()
        await asyncio.gather(*self._polls.values(), return_exceptions=True)

    async def health(self) -> dict[str, Any]:
        """Whether server and editor answer, and the state of the breaker. Does not ask an editor that is left alone."""
        state = await self._breaker.state()
        health = {"instance": self.instance, "breaker": state, "server": await self._server.healthy(), "editor": False}
        if health["server"] and state != "open":
            try:
                await self._server.call(self.instance, "read_console", {"action": "get", "count": "1"}, timeout_s=3.0)
                health["editor"] = True
            except UnityBusyError:
                health["editor"] = True
            except UnityError as error:
                health["error"] = str(error)
        return health

    # ---- scripts ---------------------------------------------------------------------------------------------

    async def write_script(self, path: str, code: str) -> Written:
        """Create a script, or replace the one of this path; one that is so already is left alone.

        Raises:
            UnityError: it was not written, or nobody knows (`UnityOutcomeUnknownError`).
            CircuitOpenError: the project is left alone for now.
        """
        before = await self.read_script(path)
        if before == code:
            return Written(path, sha256(code), "unchanged")
        folder, _, file = path.rpartition("/")
        if before is None:
            await self._surely(
                lambda: self._do("create_script", path=path, contents=code), lambda: self._script_is(path, code)
            )
        else:
            params = {"action": "update", "name": file.removesuffix(".cs"), "path": folder, "contents": code}
            command = {"tool": "manage_script", "params": params}
            await self._surely(
                lambda: self._do("batch_execute", commands=[command]), lambda: self._script_is(path, code)
            )
        await self._cache.changed(self.instance)
        return Written(path, sha256(code), "created" if before is None else "updated")

    async def read_script(self, path: str) -> str | None:
        """A script's text, None if there is none.

        Raises:
            UnityError: Unity cannot be asked.
        """
        folder, _, file = path.rpartition("/")
        try:
            answer = await self._look("manage_script", action="read", name=file.removesuffix(".cs"), path=folder)
        except UnityRefusedError:
            return None
        return str(answer.data.get("contents", ""))

    async def apply_patch(self, path: str, patch: str, expected_sha256: str | None = None) -> Written:
        """Change a script by a unified diff, unless it is changed by somebody else meanwhile.

        Raises:
            PatchError: the patch does not belong to the script.
            UnityError: as `write_script`; a script that is not there or is another one is refused.
        """
        text = await self.read_script(path)
        if text is None:
            raise UnityRefusedError(f"there is no script {path}", "not_found")
        before = sha256(text)
        if expected_sha256 not in (None, before):
            raise UnityRefusedError(
                f"{path} is not the file that the patch is for: its SHA-256 is {before}", "stale_file"
            )
        edits = await asyncio.to_thread(edits_of, patch, text)  # a long patch of a long file takes its time
        result = patched(text, edits)
        lines = result.split("\n")
        # One edit from the first to the last changed line: the server applies several only if they are far apart.
        first, last = edits[0].first, edits[-1].first + edits[-1].removed
        grown = len(lines) - len(text.split("\n"))
        new = "".join(line + "\n" for line in lines[first : last + grown])
        edit = {"startLine": first + 1, "startCol": 1, "endLine": last + 1, "endCol": 1, "newText": new}
        if last >= len(text.split("\n")):  # up to the very end, which no line follows
            end = text.split("\n")[-1]
            edit |= {"endLine": len(text.split("\n")), "endCol": _utf16(end) + 1, "newText": new.removesuffix("\n")}
        await self._surely(
            lambda: self._do("apply_text_edits", uri=path, edits=[edit], precondition_sha256=before),
            lambda: self._script_is(path, result),
        )
        await self._cache.changed(self.instance)
        return Written(path, sha256(result), "patched")

    async def _script_is(self, path: str, code: str) -> bool:
        return await self.read_script(path) == code

    # ---- assets ----------------------------------------------------------------------------------------------

    async def create_prefab(self, path: str, primitive: str | None, components: list[str]) -> dict[str, Any]:
        """Make a GameObject and save it as a prefab; one of this path must not be there.

        Raises:
            UnityError, CircuitOpenError: as `write_script`.
        """
        name = path.rpartition("/")[2].removesuffix(".prefab")
        more = {"primitive_type": primitive} if primitive else {}
        return await self._create(
            path,
            "manage_gameobject",
            name=name,
            save_as_prefab=True,
            prefab_path=path,
            components_to_add=components,
            **more,
        )

    async def create_material(self, path: str, shader: str, color: list[float] | None) -> dict[str, Any]:
        """Create a material; one of this path must not be there.

        Raises:
            UnityError, CircuitOpenError: as `write_script`.
        """
        more = {"color": color} if color else {}
        return await self._create(path, "manage_material", material_path=path, shader=shader, **more)

    async def _create(self, path: str, tool: str, **arguments: Any) -> dict[str, Any]:
        if await self._asset(path) is not None:
            raise UnityRefusedError(f"{path} is there already", "exists")

        async def is_there() -> bool:
            return await self._asset(path) is not None

        answer = await self._surely(lambda: self._do(tool, action="create", **arguments), is_there)
        await self._cache.changed(self.instance)
        return {"path": path, **(answer.data if isinstance(answer.data, dict) else {})}

    async def ingest_asset(self, path: str) -> dict[str, Any]:
        """Import a file of the project; importing it again is harmless.

        Raises:
            UnityError, CircuitOpenError: as `write_script`.
        """
        answer = await self._look("manage_asset", action="import", path=path)
        await self._cache.changed(self.instance)
        return {"path": path, **answer.data}

    async def deconstruct_asset(self, path: str) -> dict[str, Any]:
        """What an asset is, and its components where it has some.

        Raises:
            UnityError, CircuitOpenError: as `write_script`.
        """
        info = await self._look("manage_asset", action="get_info", path=path)
        try:
            components = (await self._look("manage_asset", action="get_components", path=path)).data
        except UnityRefusedError:  # only prefabs and models have some
            components = []
        return {**info.data, "components": components}

    async def _asset(self, path: str) -> dict[str, Any] | None:
        try:
            return dict((await self._look("manage_asset", action="get_info", path=path)).data)
        except UnityRefusedError:
            return None

    # ---- previews --------------------------------------------------------------------------------------------

    async def preview(self, camera: str | None, width: int, height: int) -> Preview:
        """Take a picture, or give that of the cache if nothing has changed since.

        Raises:
            UnityError, CircuitOpenError: no picture was taken.
            FrameStoreError: it could not be kept.
        """
        view = View(self.instance, camera or "", width, height)
        revision, frame_ref = await self._cache.find(view)
        if frame_ref is not None:
            return Preview(frame_ref, True, width, height)
        arguments: dict[str, Any] = {"action": "screenshot", "include_image": True}
        more = {"camera": camera} if camera else {}
        answer = await self._look("manage_camera", **arguments, max_resolution=max(width, height), **more)
        if answer.image is None:
            raise UnityRefusedError("Unity answered without a picture", "no_image")
        frame_ref = await self._frames.put(answer.image)
        await self._cache.store(view, revision, frame_ref)
        seen = answer.data
        return Preview(frame_ref, False, int(seen.get("imageWidth", width)), int(seen.get("imageHeight", height)))

    # ---- builds ----------------------------------------------------------------------------------------------

    async def start_build(self, target: str, development: bool, on_build: OnBuild) -> Build:
        """Begin a build and follow it; `on_build` hears of each look at it, the last with `over`.

        Raises:
            UnityError, CircuitOpenError: it was not begun, or nobody knows.
        """
        output = f"Builds/{target}"
        answer = await self._do(
            "manage_build", action="build", target=target, output_path=output, development=str(development).lower()
        )
        build = Build(str(answer.data["job_id"]), "building", target, output)
        self._polls[build.job_id] = asyncio.create_task(self._follow(build, on_build))
        return build

    async def build_status(self, job_id: str) -> Build:
        """How a build goes.

        Raises:
            UnityError: there is no such build, or Unity cannot be asked. A build that holds the editor up is building.
        """
        return build_of(job_id, await self._look("manage_build", action="status", job_id=job_id))

    async def _follow(self, build: Build, on_build: OnBuild) -> None:
        began = asyncio.get_running_loop().time()
        while not build.over:
            await asyncio.sleep(self._build_poll_s)
            build = await self._seen(replace(build, seconds=asyncio.get_running_loop().time() - began))
            try:
                await on_build(build)
            except SlateError as error:
                _log.error("a build cannot be told of", job_id=build.job_id, state=build.state, why=str(error))
        del self._polls[build.job_id]

    async def _seen(self, build: Build) -> Build:
        try:
            # Not through the breaker: an editor that builds may answer nothing else for minutes, and is well.
            answer = await self._server.call(
                self.instance, "manage_build", {"action": "status", "job_id": build.job_id}, timeout_s=_ANSWERS_BY_S
            )
            now = build_of(build.job_id, answer)
            build = replace(build, state=now.state, error=now.error)
        except UnityRefusedError as error:
            return replace(build, state="failed", error=str(error))
        except UnityError as error:
            _log.info("a build cannot be asked for now", job_id=build.job_id, why=str(error))
        if not build.over and build.seconds >= self._build_timeout_s:
            return replace(build, state="timeout", error=f"not over after {self._build_timeout_s:g} s")
        return build

    # ---- calls -----------------------------------------------------------------------------------------------

    async def _do(self, tool: str, **arguments: Any) -> Answer:
        """Call what changes something: again only if nothing was done."""
        return await self._call(_nothing_done, tool, arguments)

    async def _look(self, tool: str, **arguments: Any) -> Answer:
        """Call what may be done any number of times."""
        return await self._call(_repeatable_read, tool, arguments)

    async def _call(self, again: Callable[[Exception], bool], tool: str, arguments: Mapping[str, Any]) -> Answer:
        about = {"mcp.method.name": "tools/call", "gen_ai.tool.name": tool}
        with self._tracing.begin(f"tools/call {tool}", about, client=True) as span:
            async for attempt in stamina.retry_context(
                on=again, attempts=ATTEMPTS, timeout=DEADLINE_S, wait_initial=1.0, wait_max=10.0, wait_jitter=1.0
            ):
                with attempt:
                    span.tell({"spark.attempts": attempt.num})
                    async with self._breaker.call(counts=counts):
                        return await self._answered(tool, arguments, span)
        raise AssertionError("unreachable: the last attempt raises or returns")

    async def _answered(self, tool: str, arguments: Mapping[str, Any], span: Span) -> Answer:
        try:
            return await self._call_once(tool, arguments)
        except UnityRefusedError:
            span.outcome("refused")  # an answer, too: that there is no such script, for one
            raise

    async def _call_once(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        try:
            return await self._server.call(self.instance, tool, arguments, timeout_s=_ANSWERS_BY_S)
        except UnityNoEditorError:
            if not await self._editor_is_back():
                raise
        return await self._server.call(self.instance, tool, arguments, timeout_s=_ANSWERS_BY_S)

    async def _editor_is_back(self) -> bool:
        until = asyncio.get_running_loop().time() + self._editor_wait_s
        while self.instance not in await self._server.instances():
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _surely(self, do: Callable[[], Awaitable[Answer]], is_done: Callable[[], Awaitable[bool]]) -> Answer:
        """Do it, look whether it was done where the outcome is unknown, and do it once more where it was not."""
        again = True
        while True:
            try:
                return await do()
            except UnityOutcomeUnknownError as unknown:
                _log.warning("the outcome of a call is unknown: looking", instance=self.instance, why=str(unknown))
                if await self._found(is_done, unknown):
                    return Answer({}, "done: seen after the answer was lost")
                if not again:
                    raise
                again = False

    @staticmethod
    async def _found(is_done: Callable[[], Awaitable[bool]], unknown: UnityOutcomeUnknownError) -> bool:
        try:
            return await is_done()
        except UnityError as error:
            raise UnityOutcomeUnknownError(f"{unknown}; whether it was done cannot be seen: {error}") from None


def _utf16(text: str) -> int:
    """Length as C# counts it."""
    return len(text.encode("utf-16-le")) // 2


def sha256(text: str) -> str:
    """The hash that Unity gives of a script, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
