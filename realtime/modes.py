"""What a session's mode changes.

The Realtime API has no temperature, no top_p and no seed: a session that names one is refused whole. So a mode is
reasoning effort, wording, the length of answers and whether tools run side by side. It changes style and effort; it
does not make answers repeatable, and no setting of this API does.
"""

from typing import Any, Final, Literal

Mode = Literal["creative", "deterministic", "hybrid"]
MODES: Final[tuple[Mode, ...]] = ("creative", "deterministic", "hybrid")
DEFAULT_MODEL: Final = "gpt-realtime-2.1"

_BASE: Final = """You are SPARK, an assistant with which people build games in Unity by talking.
Do what is asked with the tools; do not describe code that you could write. A script is one complete C# file with
every using it needs. After a change that can be seen, render a preview. When a tool fails, say why in one sentence and
try another way at most once. Never claim what no tool confirmed. Answer in the user's language, in one to three
sentences, without code."""
_STYLE: Final[dict[Mode, str]] = {
    "creative": "Be inventive: where the request leaves room, choose something that surprises and say what you chose.",
    "deterministic": "Be literal: do exactly what is asked, in the simplest way, with the same names and structure "
    "every time. Where the request leaves room, ask.",
    "hybrid": "Keep to the request; where it leaves room, choose what most players would expect.",
}
_EFFORT: Final[dict[Mode, str | None]] = {"creative": "high", "deterministic": "low", "hybrid": None}
_TOKENS: Final[dict[Mode, int | Literal["inf"]]] = {"creative": "inf", "deterministic": 4096, "hybrid": "inf"}


def session_of(mode: Mode, model: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The `session` of a `session.update`."""
    session: dict[str, Any] = {
        "type": "realtime",
        "output_modalities": ["text"],
        "instructions": f"{_BASE}\n{_STYLE[mode]}",
        "tools": tools,
        "tool_choice": "auto",
        "max_output_tokens": _TOKENS[mode],
        "truncation": "auto",
    }
    effort = _EFFORT[mode]
    if model.startswith("gpt-realtime-2"):  # older models refuse both
        session["parallel_tool_calls"] = mode != "deterministic"
        if effort is not None:
            session["reasoning"] = {"effort": effort}
    return session
