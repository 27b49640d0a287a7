"""What the stand-in model says: scripted turns, and the brain of the demo."""

import json
import re
from dataclasses import dataclass, field
from typing import Any


def usage(
    text_in: int = 0,
    text_out: int = 0,
    cached_text: int = 0,
    *,
    audio_in: int = 0,
    audio_out: int = 0,
    cached_audio: int = 0,
    image_in: int = 0,
    cached_image: int = 0,
    reasoning: int | None = None,
) -> dict[str, Any]:
    """The `response.done` usage block. Cached and reasoning counts are subsets."""
    inp, out = text_in + audio_in + image_in, text_out + audio_out
    details: dict[str, Any] = {"text_tokens": text_out, "audio_tokens": audio_out}
    if reasoning is not None:  # on the wire for gpt-realtime-2*, not typed in 3.54.0
        details["reasoning_tokens"] = reasoning
    return {
        "total_tokens": inp + out,
        "input_tokens": inp,
        "output_tokens": out,
        "input_token_details": {
            "text_tokens": text_in,
            "audio_tokens": audio_in,
            "image_tokens": image_in,
            "cached_tokens": cached_text + cached_audio + cached_image,
            "cached_tokens_details": {
                "text_tokens": cached_text,
                "audio_tokens": cached_audio,
                "image_tokens": cached_image,
            },
        },
        "output_token_details": details,
    }


@dataclass
class Call:
    name: str
    arguments: dict[str, Any] | str  # str = send verbatim (e.g. malformed JSON)
    call_id: str | None = None

    @property
    def raw(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass
class Turn:
    """What one response.create produces."""

    text: str | None = None
    calls: list[Call] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=lambda: usage(100, 20))
    status: str = "completed"  # completed | incomplete | failed
    reason: str | None = None  # incomplete: max_output_tokens | content_filter
    error: dict[str, str] | None = None  # failed: {"type","code","message"}
    error_event: dict[str, Any] | None = None  # an `error` event mid-response
    rate_limits: list[dict[str, Any]] | None = None
    drop_after: int | None = None  # abort TCP after N deltas (no close frame)
    close: tuple[int, str] | None = None  # send a close frame after response.created
    delay: float = 0.0  # pause between deltas, so a cancel can land
    chunk: int = 8


_SCRIPT = """using UnityEngine;

public class {name} : MonoBehaviour
{{
    [SerializeField] private float speed = {speed}f;
    private Rigidbody body;

    private void Awake() => body = GetComponent<Rigidbody>();

    private void FixedUpdate()
    {{
        var input = new Vector3(Input.GetAxis("Horizontal"), 0f, Input.GetAxis("Vertical"));
        body.AddForce(input * speed, ForceMode.Acceleration);
    }}
}}
"""


def demo_brain(conversation: list[dict[str, Any]]) -> Turn:
    """Answer the last input by a tool or two, then in words.

    "hello" is answered, "build" begins a build, "material" and "prefab" make one, "patch" or "faster" changes the last
    script; anything else writes a script named after its words, and shows a preview.
    """
    asked = max((at for at, item in enumerate(conversation) if item.get("role") == "user"), default=-1)
    if asked < 0:
        return Turn(text="Tell me what to make.", usage=usage(60, 8))
    text = "".join(part.get("text", "") for part in conversation[asked]["content"])
    outputs = [item for item in conversation[asked + 1 :] if item["type"] == "function_call_output"]
    spent = usage(400 + 12 * len(conversation), 60 + len(text), 300)
    if text.lower().startswith("hello"):
        return Turn(text="Hello. What shall we make?", usage=spent)
    if not outputs:
        return Turn(calls=_calls(text, conversation[:asked]), usage=spent)
    failed = [item["output"] for item in outputs if '"error"' in item["output"]]
    if failed:
        return Turn(text=f"That did not work: {failed[0][:200]}", usage=spent)
    return Turn(text=f"Done: {text}. What shall we do next?", usage=spent)


def _calls(text: str, before: list[dict[str, Any]]) -> list[Call]:
    words = re.findall(r"[A-Za-z]+", text)
    name = "".join(word.capitalize() for word in words[-2:])[:60] or "Behaviour"
    lower = text.lower()
    if "build" in lower:
        return [Call("runBuild", {"target": "webgl"})]
    if "material" in lower:
        return [Call("createUnityMaterial", {"path": f"Assets/Materials/{name}.mat", "color": [0.8, 0.2, 0.1]})]
    if "prefab" in lower:
        prefab = {"path": f"Assets/Prefabs/{name}.prefab", "primitive": "Capsule", "components": ["Rigidbody"]}
        return [Call("createUnityPrefab", prefab), Call("renderPreview", {})]
    written = [
        json.loads(item["arguments"])["scriptName"]
        for item in before
        if item["type"] == "function_call" and item["name"] == "generateUnityScript"
    ]
    if written and ("patch" in lower or "faster" in lower):
        path = f"Assets/Scripts/{written[-1]}.cs"
        patch = "@@ @@\n {\n-    [SerializeField] private float speed = 4f;\n"
        patch += "+    [SerializeField] private float speed = 8f;\n"
        return [Call("applyCodePatch", {"path": path, "patch": patch})]
    script = {"scriptName": name, "code": _SCRIPT.format(name=name, speed=4)}
    return [Call("generateUnityScript", script), Call("renderPreview", {})]
