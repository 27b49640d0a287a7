"""Unified diffs as a model writes them: line numbers are hints, context lines decide where a hunk belongs.

Hunks are all for the text as it was, from top to bottom. They may share context, and may not share changed lines.
A number of a line counts where nothing else decides: when the lines of a hunk are in the text at several places, or
when it has only new lines, and says by `-12,0` after which line they come.

Ends of lines are not part of a patch: those of the text stay, and new lines end as most of its lines do. The end of
the text stays as it was too, with a last newline or without, for models often leave out `\\ No newline at end of
file`. Where a patch has this mark, its hunk is at the end of the text; on one side only (of the old lines, or of the
new) it also says that the text gets a last newline, or loses it.
"""

import re
from itertools import groupby
from typing import Final, NamedTuple

from connectors.errors import SlateError

_HUNK: Final = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? ?@@?")
_BEFORE: Final = ("---", "+++", "diff ", "index ", "```")


class PatchError(SlateError):
    """A patch cannot be read, or does not belong to the text; says which hunk and why."""


class Edit(NamedTuple):
    """Lines of a text as `text.split("\\n")` gives them, and what takes their place."""

    first: int
    """Index of the first line, from 0."""
    removed: int
    """How many lines are replaced; 0 puts the new ones before `first`."""
    lines: list[str]
    """New lines, without their ends."""


class _Hunk:
    def __init__(self, number: int, first: int | None, count: int | None) -> None:
        self.number = number
        self.first = first
        self.count = count
        self.lines: list[tuple[str, str]] = []
        self.unended: set[str] = set()
        """Sides, `-` and `+`, whose last line is said to end without a newline."""

    @property
    def old(self) -> list[str]:
        return [text for mark, text in self.lines if mark != "+"]

    def edits(self, place: int) -> list[Edit]:
        """Its changes, when its first line is that of index `place`."""
        edits = []
        for kept, group in groupby(self.lines, lambda line: line[0] == " "):
            run = list(group)
            old = [text for mark, text in run if mark != "+"]
            new = [text for mark, text in run if mark == "+"]
            if not kept and old != new:
                edits.append(Edit(place, len(old), new))
            place += len(old)
        return edits


def edits_of(patch: str, text: str) -> list[Edit]:
    """Where the changes of a patch belong in a text, first to last.

    Raises:
        PatchError: there is no hunk, one changes nothing, its lines are not in the text or at several places, or it
            changes what an earlier one changes.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    ended = was_ended = lines[-1] == ""
    if was_ended:
        lines.pop()
    found: list[Edit] = []
    free = 0
    hunks = _hunks(patch)
    for hunk in hunks:
        edits = hunk.edits(_place(hunk, lines, free))
        if len(hunk.unended) == 1:
            ended = hunk.unended == {"-"}
        if not edits and ended == was_ended:
            raise PatchError(f"hunk {hunk.number} changes nothing")
        found += edits
        if edits:
            free = edits[-1].first + max(edits[-1].removed, 1)
    if not hunks:
        raise PatchError("the patch has no hunk: it needs @@ and then lines that begin with ' ', '-' or '+'")
    if ended != was_ended or (not ended and found[-1].first + found[-1].removed == len(lines)):
        return [_up_to_the_end(lines, found, was_ended=was_ended, ended=ended)]
    return found


def _up_to_the_end(lines: list[str], edits: list[Edit], *, was_ended: bool, ended: bool) -> Edit:
    after = list(lines)
    for edit in reversed(edits):
        after[edit.first : edit.first + edit.removed] = edit.lines
    if ended or not after:
        after.append("")
    changed = edits[0].first if edits else len(lines)
    first = max(0, min(changed, len(lines) - 1, len(after) - 1))
    return Edit(first, len(lines) + was_ended - first, after[first:])


def patched(text: str, edits: list[Edit]) -> str:
    """The text with its edits; new lines end as most of the text's own do."""
    end = "\r" if text.count("\r\n") * 2 > text.count("\n") else ""
    lines = text.split("\n")
    size = len(lines)
    for edit in reversed(edits):
        new = [line + end for line in edit.lines]
        if new and edit.first + edit.removed == size:
            new[-1] = edit.lines[-1]
        lines[edit.first : edit.first + edit.removed] = new
    return "\n".join(lines)


def _hunks(patch: str) -> list[_Hunk]:
    hunks: list[_Hunk] = []
    mark = ""
    for raw in patch.split("\n"):
        line = raw.removesuffix("\r")
        if line.startswith("@@"):
            head = _HUNK.match(line)
            numbers = (int(head[1]), int(head[2] or 1)) if head else (None, None)
            hunks.append(_Hunk(len(hunks) + 1, *numbers))
        elif not hunks:
            if line.startswith(("--- /dev/null", "+++ /dev/null")):
                raise PatchError("the patch makes or deletes a file: it can only change one that is there")
            if line and not line.startswith(_BEFORE):
                raise PatchError(f"the patch begins with {line[:80]!r} and not with a hunk (@@)")
        elif line.startswith("\\"):  # "No newline at end of file", in any language
            hunks[-1].unended |= {mark} if mark in ("-", "+") else {"-", "+"}
        elif line[:1] in (" ", "-", "+"):
            mark = line[0]
            hunks[-1].lines.append((mark, line[1:]))
        elif not line:
            mark = ""  # an empty context line, for models leave its blank out, or none at all
            hunks[-1].lines.append((mark, ""))
        elif not line.startswith("```"):
            raise PatchError(f"hunk {len(hunks)}: {line[:80]!r} begins with neither ' ', '-' nor '+'")
    for hunk in hunks:
        while hunk.lines and hunk.lines[-1][0] == "":
            hunk.lines.pop()
        hunk.lines = [(mark or " ", text) for mark, text in hunk.lines]
        if all(mark == " " for mark, _ in hunk.lines):
            raise PatchError(f"hunk {hunk.number} changes nothing")
    return hunks


def _place(hunk: _Hunk, lines: list[str], free: int) -> int:
    """Index of its first line; what it changes must not be before `free`."""
    old = hunk.old
    if not old:
        if hunk.first is None or hunk.count != 0 or hunk.first > len(lines):
            raise PatchError(f"hunk {hunk.number} only adds lines: it needs a line of context, or a number as -12,0")
        places, hint = [hunk.first], hunk.first
    else:
        size, first = len(old), old[0]
        places = [at for at, line in enumerate(lines) if line == first and lines[at : at + size] == old]
        hint = -1 if hunk.first is None else hunk.first - 1
    if hunk.unended:
        places = [at for at in places if at + len(old) == len(lines)]
    if not places:
        where = "at the end of it" if hunk.unended else "in it"
        which = f"its lines, first {old[0][:80]!r}, are" if old else f"line {hunk.first} is"
        raise PatchError(f"hunk {hunk.number} does not belong to this file: {which} not {where}")
    lead = next(index for index, (mark, _) in enumerate(hunk.lines) if mark != " ")
    after = [at for at in places if at + lead >= free]
    if not after or (hint in places and hint not in after):
        raise PatchError(
            f"hunk {hunk.number} changes what an earlier hunk changes, or what is above it: "
            "hunks go from top to bottom, and changes of the same lines are one hunk"
        )
    if hint in after or len(after) == 1:
        return hint if hint in after else after[0]
    where = ", ".join(str(at + 1) for at in after[:5])
    raise PatchError(f"hunk {hunk.number} fits at several lines ({where}): give more context")
