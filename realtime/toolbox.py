"""Runs the model's calls in the Unity project, and tells what happens step by step."""

import hashlib
import time
from typing import Any

from connectors.errors import SlateError
from realtime.bridge import UnityBridge, Written
from realtime.builds import Build
from realtime.steps import Steps
from realtime.tools import (
    ApplyCodePatch,
    CreateUnityMaterial,
    CreateUnityPrefab,
    DeconstructAsset,
    GenerateUnityScript,
    GetBuildStatus,
    IngestAsset,
    RenderPreview,
    RunBuild,
    Tool,
)

Output = dict[str, Any]


class Toolbox:
    """The tools of one session in its project."""

    def __init__(self, bridge: UnityBridge, steps: Steps) -> None:
        self._bridge = bridge
        self._steps = steps

    async def run(self, tool: Tool, prompt: str) -> Output:  # noqa: PLR0911 - one for each tool
        """Do what a call asks for; `prompt` is the input that led to it.

        Raises:
            SlateError: it was not done, or nobody knows; the text is for the model.
        """
        match tool:
            case GenerateUnityScript():
                return await self._generate(tool, prompt)
            case ApplyCodePatch():
                return await self._patch(tool)
            case CreateUnityPrefab(path=path):
                output = await self._bridge.create_prefab(path, tool.primitive, tool.components)
                await self._steps.runtime("prefab_created", path=path)
                return output
            case CreateUnityMaterial(path=path):
                output = await self._bridge.create_material(path, tool.shader, tool.color)
                await self._steps.runtime("material_created", path=path)
                return output
            case RenderPreview():
                return await self._preview(tool)
            case IngestAsset(path=path):
                output = await self._bridge.ingest_asset(path)
                await self._steps.runtime("asset_ingested", path=path)
                return output
            case DeconstructAsset(path=path):
                output = await self._bridge.deconstruct_asset(path)
                await self._steps.runtime("asset_deconstructed", path=path)
                return output
            case RunBuild():
                build = await self._bridge.start_build(tool.target, tool.development, self._build_seen)
                await self._steps.build("started", build)
                return {"jobId": build.job_id, "state": build.state, "outputPath": build.output_path}
            case GetBuildStatus(job_id=job_id):
                build = await self._bridge.build_status(job_id)
                if build.over:
                    await self._build_seen(build)
                return {"jobId": job_id, "state": build.state, "error": build.error or None}
        raise AssertionError(f"no way to run {tool.name}")

    async def _generate(self, tool: GenerateUnityScript, prompt: str) -> Output:
        began = time.monotonic()
        about = {"scriptName": tool.script_name, "path": tool.path}
        await self._steps.runtime("generate_unity_script.started", **about)
        try:
            written = await self._bridge.write_script(tool.path, tool.code)
        except SlateError as error:
            await self._steps.runtime("generate_unity_script.failed", error=str(error), **about)
            raise
        more = {"durationMs": _ms(began), "change": written.change, "sha256": written.sha256}
        await self._steps.runtime("generate_unity_script.completed", **about, **more)
        await self._steps.script_generated(tool.script_name, tool.code, prompt, path=tool.path, sha256=written.sha256)
        return _output(written)

    async def _patch(self, tool: ApplyCodePatch) -> Output:
        try:
            written = await self._bridge.apply_patch(tool.path, tool.patch, tool.expected_sha256)
        except SlateError as error:
            await self._steps.runtime("apply_patch.failed", path=tool.path, error=str(error))
            raise
        await self._steps.runtime("patch_applied", path=tool.path, sha256=written.sha256)
        return _output(written)

    async def _preview(self, tool: RenderPreview) -> Output:
        await self._steps.preview_started()
        try:
            preview = await self._bridge.preview(tool.camera, tool.width, tool.height)
        except SlateError as error:
            await self._steps.preview_failed(str(error))
            raise
        await self._steps.preview_completed(preview)
        return {"frameRef": preview.frame_ref, "width": preview.width, "height": preview.height}

    async def _build_seen(self, build: Build) -> None:
        await self._steps.build(build.state if build.over else "progress", build)


def _output(written: Written) -> Output:
    return {"path": written.path, "sha256": written.sha256, "change": written.change}


def arguments_told(tool: Tool) -> dict[str, Any]:
    """A call's arguments as its event has them: of code only its length and hash."""
    told = tool.model_dump(by_alias=True, exclude_none=True)
    for name in tool.code_fields:
        code = str(told.pop(name))
        told[f"{name}Chars"] = len(code)
        told[f"{name}Sha256"] = hashlib.sha256(code.encode()).hexdigest()
    return told


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
