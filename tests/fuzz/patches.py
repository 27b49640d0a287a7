"""Patches: a bad one is refused in words, a good one changes the lines that it names and no others."""

from typing import Final

from realtime.patch import PatchError, edits_of, patched
from tests.fuzz.target import PART, Target, in_time

_TEXT: Final = "one\ntwo\nthree\nfour\nfive\nsix\nseven\ntwo\nthree\n"
_PATCHES: Final = [
    "@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n",
    "--- a/x\n+++ b/x\n@@ -2 +2,2 @@\n two\n+more\n@@ -5 +6 @@\n-five\n",
    "@@ -9,0 +10 @@\n+end\n",
    "@@ -0,0 +1 @@\n+begin\n",
    "@@ @@\n six\n-seven\n two\n three\n\\ No newline at end of file\n",
    "```diff\n@@ -8,2 +8,2 @@\n two\n-three\n+3\n\\ No newline at end of file\n```\n",
]


def check(data: bytes) -> None:
    """Edits are in order, inside the text and apart, and all else stays."""
    patch, text = (part.decode("utf-8", "replace") for part in (*data.split(PART, 1), b"")[:2])
    try:
        with in_time():
            edits = edits_of(patch, text)
            after = patched(text, edits)
    except PatchError:
        return
    lines = text.split("\n")
    end = 0
    left = after.split("\n")
    for edit in edits:
        assert end <= edit.first
        assert edit.removed >= 0
        assert edit.first + edit.removed <= len(lines)
        kept = lines[end : edit.first]
        assert left[: len(kept)] == kept, "a line that the patch does not name has changed"
        del left[: len(kept) + len(edit.lines)]
        end = edit.first + edit.removed
    assert left == lines[end:], "the end of the text has changed"


def seeds() -> list[bytes]:
    """Good patches, for texts with and without a last newline, and with other ends of lines."""
    texts = [_TEXT, _TEXT.rstrip("\n"), _TEXT.replace("\n", "\r\n"), ""]
    return [PART.join((patch.encode(), text.encode())) for patch in _PATCHES for text in texts]


def words() -> list[bytes]:
    """Pieces of patches."""
    pieces = [
        "@@ -1 +1 @@\n",
        "@@ -3,0 +4 @@\n",
        "\n-two\n",
        "\n+new\n",
        "\n three\n",
        "\\ No newline\n",
        "\r\n",
        "--- /dev/null",
    ]
    return [PART, *(piece.encode() for piece in pieces)]


TARGET: Final = Target("patch", check, seeds, words)
