"""A stand-in for a Unity editor, as the real Unity MCP server (`mcpforunityserver` 10) sees one.

    python -m tests.standins.editor --url ws://127.0.0.1:8080/hub/plugin --project Demo --root ./Demo

It speaks the editor's side of `/hub/plugin`: registers, answers `execute` one at a time, keeps alive, and comes back
after a domain reload. Scripts and assets are files below ROOT/Assets. A script's name brings a fault about:

    Err*    Unity refuses it              Raise*   its handler raises            SlowN*    it takes N seconds
    Mute*   it never answers              Drop*    it closes before it acts      Reload*   it acts, closes, comes back
    Lost*   it acts, closes and does not come back
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import struct
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets

Json = dict[str, Any]
RELOAD_S = 0.5
AWAY_S = 3600.0


class Close(Exception):  # noqa: N818 - not an error
    """The editor's connection ends here; it comes back after so many seconds."""

    def __init__(self, after: float = 0.2) -> None:
        super().__init__()
        self.after = after


def ok(message: str, data: Any = None) -> Json:
    return {"success": True, "message": message, **({"data": data} if data is not None else {})}


def err(code: str, data: Json | None = None) -> Json:
    return {"success": False, "code": code, "error": code, **({"data": data} if data else {})}


def png(width: int, height: int, colour: bytes = b"\x30\x80\xc0", noise: bool = False) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + (os.urandom(3 * width) if noise else colour * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@dataclass
class Editor:
    """One editor with one project."""

    url: str
    project: str
    root: Path
    build_s: float = 2.0
    build_blocks: bool = False
    """Nothing is answered while a build runs, as with BuildPlayer on the main thread."""
    build_result: str = "succeeded"
    compiling: bool = False
    noise: bool = False
    """Pictures that do not compress."""
    reconnect_s: float = 0.2
    api_key: str | None = None
    commands: list[tuple[str, Json]] = field(default_factory=list)
    """What was executed, in order."""
    registered: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.assets = self.root / "Assets"
        self.assets.mkdir(parents=True, exist_ok=True)
        self._jobs: dict[str, Json] = {}

    @property
    def instance(self) -> str:
        """How the server calls it."""
        # As the plugin makes it: the first 16 hex digits of the SHA-1 of the data path.
        return f"{self.project}@{hashlib.sha1(str(self.assets).encode()).hexdigest()[:16]}"

    # ---- what it can do --------------------------------------------------------------------------------------

    def _file(self, path: str) -> Path:
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.assets.resolve()):
            raise RuntimeError(f"{path} is outside the project")
        return found

    async def manage_script(self, p: Json) -> Json:
        action, name = p["action"], p["name"]
        relative = f"{(p.get('path') or 'Assets').rstrip('/')}/{name}.cs"
        file = self._file(relative)
        if action in ("create", "update", "apply_text_edits"):
            return await self._change_script(action, name, relative, file, p)
        if not file.exists():
            return err(f"Script not found at '{relative}'.")
        text = _text(file)
        uri = f"mcpforunity://path/{relative}"
        if action == "read":
            return ok("read", {"uri": uri, "path": relative, "contents": text, "contentsEncoded": False})
        if action == "delete":
            file.unlink()
            return ok(f"Script '{name}.cs' moved to trash.", {"deleted": True})
        if action == "validate":
            return ok("Validation completed.", {"diagnostics": []})
        if action == "get_sha":
            return ok("sha", {"sha256": _sha(text), "lengthBytes": len(text.encode())})
        return err(f"Unknown action: '{action}'.")

    async def _change_script(self, action: str, name: str, relative: str, file: Path, p: Json) -> Json:
        await self._fault_before(name)
        if name.startswith("Err"):
            return err("validation_failed", {"diagnostics": ["ERROR: Unbalanced braces (Line 3)"]})
        if action == "create" and file.exists():
            return err(f"Script already exists at '{relative}'. Use 'update' action to modify.")
        if action != "create" and not file.exists():
            return err(f"Script not found at '{relative}'. Use 'create' action to add a new script.")
        if action == "apply_text_edits":
            text = _text(file)
            if p.get("precondition_sha256") not in (None, _sha(text)):
                return err("stale_file", {"status": "stale_file", "current_sha256": _sha(text)})
            text = _edited(text, p["edits"])
        elif p.get("contentsEncoded"):
            text = base64.b64decode(p["encodedContents"]).decode()
        else:
            text = p.get("contents") or ""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if name.startswith("Reload"):
            raise Close(RELOAD_S)
        if name.startswith("Lost"):
            raise Close(AWAY_S)
        uri = f"mcpforunity://path/{relative}"
        return ok(f"Script '{name}.cs' {action}d at '{relative}'.", {"uri": uri, "sha256": _sha(text)})

    @staticmethod
    async def _fault_before(name: str) -> None:
        if name.startswith("Raise"):
            raise RuntimeError("simulated handler exception")
        if name.startswith("Mute"):
            await asyncio.sleep(1e6)
        if name.startswith("Drop"):
            raise Close
        if slow := re.match(r"Slow(\d+)", name):
            await asyncio.sleep(int(slow[1]))

    async def manage_camera(self, p: Json) -> Json:
        data: Json = {"path": "Assets/Screenshots/shot.png", "camera": p.get("camera") or "Main Camera"}
        if data["camera"].startswith("Missing"):
            return err(f"Camera '{data['camera']}' not found.")
        if p.get("includeImage"):
            side = int(p.get("maxResolution") or 640)
            width, height = side, side * 9 // 16
            picture = base64.b64encode(png(width, height, noise=self.noise)).decode()
            data |= {"imageBase64": picture, "imageWidth": width, "imageHeight": height}
        return ok("Screenshot captured.", data)

    async def manage_build(self, p: Json) -> Json:
        def pending(message: str, data: Json) -> Json:
            more = {"_mcp_status": "pending", "_mcp_poll_interval": 5.0}
            return {"success": True, **more, "message": message, "data": data}

        if p["action"] == "build":
            job_id = f"build-{uuid.uuid4().hex}"[:16]
            self._jobs[job_id] = {"began": time.monotonic(), "platform": p.get("target"), "path": p.get("output_path")}
            return pending("Build scheduled.", {"job_id": job_id, "platform": p.get("target")})
        job = self._jobs.get(p.get("job_id") or "")
        if job is None:
            return err(f"No job found with ID: {p.get('job_id')}")
        if p["action"] == "cancel":
            job["cancelled"] = True
        data = {"job_id": p["job_id"], "platform": job["platform"], "output_path": job["path"]}
        if job.get("cancelled"):
            return ok("Build cancelled.", data | {"result": "cancelled"})
        if self._building(job):
            return pending("Build building...", data | {"result": "building"})
        errors = 0 if self.build_result == "succeeded" else 1
        return ok(f"Build {self.build_result}.", data | {"result": self.build_result, "errors": errors, "warnings": 1})

    def _building(self, job: Json) -> bool:
        return time.monotonic() - float(job["began"]) < self.build_s

    async def manage_gameobject(self, p: Json) -> Json:
        path = p.get("prefabPath") or p.get("prefab_path")
        if p["action"] != "create" or not path:
            return err("unsupported")
        file = self._file(path)
        if file.exists():
            return err(f"Prefab already exists at '{path}'.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"name": p["name"], "components": p.get("componentsToAdd") or []}))
        return ok(f"GameObject '{p['name']}' created and saved as prefab.", {"prefabPath": path, "instanceID": 4711})

    async def manage_material(self, p: Json) -> Json:
        path = p["materialPath"]
        file = self._file(path)
        if file.exists():
            return err(f"Material already exists at {path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"shader": p.get("shader"), "color": p.get("color")}))
        return ok(f"Created material at {path}", {"path": path})

    async def manage_asset(self, p: Json) -> Json:
        path = p["path"]
        file = self._file(path)
        if not file.exists():
            return err(f"Asset not found at {path}")
        about = {"path": path, "name": file.stem, "fileExtension": file.suffix, "size": file.stat().st_size}
        if p["action"] == "import":
            return ok("Asset reimported.", about)
        if p["action"] == "get_components":
            return ok("2 components.", [{"typeName": "Transform"}, {"typeName": "MeshRenderer"}])
        return ok("info", about | {"guid": hashlib.md5(path.encode()).hexdigest(), "assetType": "UnityEngine.Object"})

    async def get_editor_state(self, p: Json) -> Json:
        compilation = {"is_compiling": self.compiling, "is_domain_reload_pending": False}
        now = int(time.time() * 1000)
        schema = "unity-mcp/editor_state@2"
        return ok(
            "state",
            {"schema_version": schema, "observed_at_unix_ms": now, "sequence": 1, "compilation": compilation},
        )

    async def get_project_info(self, p: Json) -> Json:
        return ok("info", {"projectRoot": str(self.root), "projectName": self.project, "assetsPath": str(self.assets)})

    async def read_console(self, p: Json) -> Json:
        return ok("Retrieved 0 log entries.", [])

    async def batch_execute(self, p: Json) -> Json:
        results = []
        for command in p["commands"]:
            result = await self._handler(command["tool"])(command["params"])
            results.append({"tool": command["tool"], "callSucceeded": result["success"], "result": result})
        good = sum(one["callSucceeded"] for one in results)
        data = {"results": results, "callSuccessCount": good, "callFailureCount": len(results) - good}
        return ok("Batch completed.", data) if good == len(results) else err("One or more commands failed.", data)

    TOOLS = (
        "manage_script",
        "manage_camera",
        "manage_build",
        "manage_gameobject",
        "manage_material",
        "manage_asset",
        "read_console",
        "batch_execute",
    )

    def _handler(self, name: str) -> Callable[[Json], Awaitable[Json]]:
        if name not in (*self.TOOLS, "get_editor_state", "get_project_info"):
            raise RuntimeError(f"Unknown or unsupported command type: {name}")
        handler: Callable[[Json], Awaitable[Json]] = getattr(self, name)
        return handler

    async def _execute(self, name: str, params: Json) -> Json:
        if name == "ping":
            return {"status": "success", "result": {"message": "pong"}}
        self.commands.append((name, params))
        try:
            return {"status": "success", "result": await self._handler(name)(params)}
        except (Close, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - as the editor's dispatcher
            return {"status": "error", "error": str(error), "stackTrace": "at Editor()"}

    # ---- the hub ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, serve, and come back, for ever."""
        while True:
            pause = self.reconnect_s
            try:
                await self._session()
            except Close as closed:
                pause = closed.after
            except (OSError, websockets.WebSocketException):
                pass
            finally:
                self.registered.clear()
            await asyncio.sleep(pause)

    async def _session(self) -> None:
        headers = {"X-API-Key": self.api_key} if self.api_key else {}
        inbox: asyncio.Queue[Json] = asyncio.Queue()
        async with websockets.connect(
            self.url, additional_headers=headers, max_size=None, ping_interval=None
        ) as socket:

            async def send(message: Json) -> None:
                await socket.send(json.dumps(message))

            tasks = [
                asyncio.create_task(self._read(socket, send, inbox)),
                asyncio.create_task(self._work(send, inbox)),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: Any, send: Callable[[Json], Awaitable[None]], inbox: "asyncio.Queue[Json]") -> None:
        session = None
        async for raw in socket:
            message = json.loads(raw)
            match message["type"]:
                case "welcome":
                    about = {
                        "project_name": self.project,
                        "project_hash": self.instance.rpartition("@")[2],
                        "project_path": str(self.root),
                    }
                    await send({"type": "register", "unity_version": "6000.0.30f1", **about})
                case "registered":
                    session = message["session_id"]
                    tools = [_registered(one) for one in self.TOOLS]
                    await send({"type": "register_tools", "tools": tools})
                    self.registered.set()
                case "ping":
                    await send({"type": "pong", "session_id": session})
                case "execute":
                    inbox.put_nowait(message)

    async def _work(self, send: Callable[[Json], Awaitable[None]], inbox: "asyncio.Queue[Json]") -> None:
        while True:
            message = await inbox.get()
            budget = max(1, int(message.get("timeout") or 30))
            try:
                async with asyncio.timeout(budget):  # wait_for of Python 3.11 may swallow a cancellation
                    result = await self._when_free(message)
            except TimeoutError:
                text = f"Command '{message['name']}' timed out after {budget} seconds"
                result = {"status": "error", "error": text}
            await send({"type": "command_result", "id": message["id"], "result": result})

    async def _when_free(self, message: Json) -> Json:
        while self.build_blocks and any(self._building(job) for job in self._jobs.values()):
            await asyncio.sleep(0.05)
        return await self._execute(message["name"], message.get("params") or {})


def _registered(name: str) -> Json:
    return {
        "name": name,
        "description": name,
        "structured_output": True,
        "requires_polling": False,
        "poll_action": "status",
        "max_poll_seconds": 0,
        "parameters": [],
    }


def _text(file: Path) -> str:
    return file.read_bytes().decode()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _edited(text: str, edits: list[Json]) -> str:
    """Apply edits of lines and columns, which count from 1 and in UTF-16, the last first."""
    lines = text.split("\n")

    def place(line: int, column: int) -> int:
        before = sum(len(one) + 1 for one in lines[: line - 1])
        inside = (
            lines[line - 1].encode("utf-16-le")[: 2 * (column - 1)].decode("utf-16-le") if line <= len(lines) else ""
        )
        return min(before + len(inside), len(text))

    for edit in sorted(edits, key=lambda one: (one["startLine"], one["startCol"]), reverse=True):
        begin = place(edit["startLine"], edit["startCol"])
        end = place(edit["endLine"], edit["endCol"])
        text = text[:begin] + edit["newText"] + text[end:]
    return text


def main() -> None:
    """Run editors for one or several projects until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Stand-in for Unity editors.")
    parser.add_argument("--url", default="ws://127.0.0.1:8080/hub/plugin", help="hub of the Unity MCP server")
    parser.add_argument("--project", action="append", help="name; once for each editor")
    parser.add_argument("--root", type=Path, default=Path(), help="directory in which each project has its own")
    parser.add_argument("--build-s", type=float, default=2.0, help="how long a build takes, seconds")
    arguments = parser.parse_args()

    async def run() -> None:
        editors = [
            Editor(arguments.url, name, arguments.root.absolute() / name, build_s=arguments.build_s)
            for name in arguments.project or ["Demo"]
        ]
        await asyncio.gather(*(one.run() for one in editors))

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
