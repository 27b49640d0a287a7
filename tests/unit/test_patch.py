"""A patch gives what it was made to give, wherever its numbers point; what is not clear is refused, by hunk."""

import difflib
import re
import subprocess
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.patch import Edit, PatchError, edits_of, patched

TEXT = """using UnityEngine;

public class Player : MonoBehaviour
{
    private float speed = 4f;

    void Update()
    {
    }

    void OnDisable()
    {
    }
}
"""
SPEED = "@@ -5 +5 @@\n-    private float speed = 4f;\n+    private float speed = 6f;\n"
NO_NEWLINE = "\\ No newline at end of file"

# Few lines, so that they repeat; some look like parts of a patch.
LINES = st.sampled_from(
    ["a", "b", "c", "", " ", "}", "-- a", "++ b", "-", "+", "@@ -1 +1 @@", "\\ x", "```", " a", "\té🎮"]
)
TEXTS = st.lists(LINES, max_size=30)


def apply(patch: str, text: str) -> str:
    edits = edits_of(patch, text)
    assert all(one.first + one.removed <= len(text.split("\n")) for one in edits)
    assert all(one.first + max(one.removed, 1) <= two.first for one, two in pairwise(edits))
    return patched(text, edits)


def joined(lines: list[str], newline: str, *, ended: bool) -> str:
    return newline.join(lines) + (newline if ended and lines else "")


def diff(before: str, after: str, context: int) -> str:
    """As diff(1) writes it, which difflib leaves to its callers where a last newline is missing."""
    one, two = (re.findall(r"[^\n]*\n|[^\n]+", text.replace("\r\n", "\n")) for text in (before, after))
    lines = difflib.unified_diff(one, two, "a/Player.cs", "b/Player.cs", n=context)
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}\n" for line in lines)


@given(
    before=TEXTS,
    after=TEXTS,
    context=st.sampled_from([0, 1, 3]),
    newline=st.sampled_from(["\n", "\r\n"]),
    ended=st.tuples(st.booleans(), st.booleans()),
    crlf_patch=st.booleans(),
)
@example(["a"], ["a", "a"], 0, "\n", (False, False), False)
@example(["a", "b"], ["a"], 3, "\r\n", (False, False), False)
@example([], ["a"], 3, "\n", (True, False), False)
@example(["a", "b"], ["a", "b"], 3, "\r\n", (True, False), True)
def test_the_diff_of_any_two_texts_gives_the_second_from_the_first(
    before: list[str], after: list[str], context: int, newline: str, ended: tuple[bool, bool], crlf_patch: bool
) -> None:
    first = joined(before, newline, ended=ended[0])
    new_lines = newline if "\n" in first else "\n"  # a text of no line, or of one without its end, tells no other
    second = joined(after, new_lines, ended=ended[1])
    patch = diff(first, second, context)
    if first == second:
        assert patch == ""
    else:
        assert apply(patch.replace("\n", "\r\n") if crlf_patch else patch, first) == second


@given(before=TEXTS, after=TEXTS, newline=st.sampled_from(["\n", "\r\n"]))
def test_without_the_mark_the_end_of_the_text_stays_as_it_is(before: list[str], after: list[str], newline: str) -> None:
    for ended in (True, False):
        first = joined([*before, "end"], newline, ended=ended)
        second = joined([*after, "end"], newline if "\n" in first else "\n", ended=ended)
        if before != after:
            assert apply(diff(first, second, 1).replace(f"{NO_NEWLINE}\n", ""), first) == second


@given(
    lines=st.lists(st.integers().map(str), min_size=3, max_size=20, unique=True),
    data=st.data(),
    offset=st.integers(-50, 50),
)
def test_unique_lines_decide_whatever_the_numbers_say(lines: list[str], data: st.DataObject, offset: int) -> None:
    text = joined(lines, "\n", ended=True)
    changed = data.draw(st.sets(st.sampled_from(range(len(lines))), min_size=1))
    after = joined([f"new {line}" if at in changed else line for at, line in enumerate(lines)], "\n", ended=True)
    moved = re.sub(r"^@@ -(\d+)", lambda head: f"@@ -{max(0, int(head[1]) + offset)}", diff(text, after, 1), flags=re.M)
    assert apply(moved, text) == after
    assert apply(re.sub(r"^@@.*", "@@ @@", moved, flags=re.M), text) == after


@given(before=TEXTS, after=TEXTS, patch=st.text(st.sampled_from("@-+ \\\n\rab`1,0"), max_size=60))
@example(["a"], [], "@@\n\\\n-a")
@example(["a"], [], "\\\n@@\n\\\n\n\\")
def test_any_patch_of_any_text_is_applied_or_refused(before: list[str], after: list[str], patch: str) -> None:
    text = joined(before, "\n", ended=True)
    broken = diff(text, joined(after, "\n", ended=True), 1)[: -len(patch) or None] + patch
    for one in (patch, broken, f"@@ -1 +1 @@\n{patch}"):
        with suppress(PatchError):
            apply(one, text)


def test_the_diff_of_diff_gives_the_second_text(tmp_path: Path) -> None:
    texts = [TEXT, TEXT.rstrip("\n"), TEXT.replace("4f", "5f").rstrip("\n"), TEXT + "\n// end", ""]
    old, new = tmp_path / "old", tmp_path / "new"
    for before in texts:
        for after in texts:
            if before != after:
                old.write_text(before)
                new.write_text(after)
                made = subprocess.run(["diff", "-u", old, new], capture_output=True, text=True, check=False).stdout
                assert apply(made, before) == after


def test_the_mark_says_that_a_last_newline_comes_or_goes() -> None:
    assert apply(f"@@\n-b\n+c\n{NO_NEWLINE}", "a\nb\n") == "a\nc"
    assert apply(f"@@\n-b\n{NO_NEWLINE}\n+c", "a\nb") == "a\nc\n"
    assert apply(f"@@\n-b\n{NO_NEWLINE}\n+b", "a\r\nb") == "a\r\nb\r\n"
    assert apply(f"@@\n-b\n{NO_NEWLINE}\n+b\n+c\n{NO_NEWLINE}", "a\r\nb") == "a\r\nb\r\nc"
    assert apply(f"@@\n-a\n+c\n b\n{NO_NEWLINE}", "a\nb") == "c\nb"
    assert apply(f"@@\n-a\n+c\n b\n{NO_NEWLINE}", "a\nb\n") == "c\nb\n"


def test_the_mark_puts_a_hunk_at_the_end() -> None:
    assert apply(f"@@\n-b\n{NO_NEWLINE}\n+c\n{NO_NEWLINE}", "b\nb\nb") == "b\nb\nc"
    with pytest.raises(PatchError, match="hunk 1 does not belong to this file: its lines, first 'a', are not at the e"):
        edits_of(f"@@\n-a\n+c\n{NO_NEWLINE}", "a\nb\n")


def test_an_edit_at_the_end_names_lines_that_are_there() -> None:
    """An editor counts from 1 to the last line: nothing can be put after it but in its place."""
    assert edits_of("@@\n b\n+c", "a\nb") == [Edit(1, 1, ["b", "c"])]
    assert edits_of("@@\n-b", "a\nb") == [Edit(0, 2, ["a"])]
    assert edits_of("@@\n-a", "a") == [Edit(0, 1, [""])]
    assert edits_of("@@\n b\n+c", "a\nb\n") == [Edit(2, 0, ["c"])]


def test_each_line_keeps_its_own_end_and_new_ones_end_as_most_do() -> None:
    mostly_lf = "a\nb\r\nc\nd\ne\n"
    assert apply("@@\n-a\n+A\n b\n-c\n+C\n+C\n d\n", mostly_lf) == "A\nb\r\nC\nC\nd\ne\n"
    assert apply("@@\n-b\n+B\n", "a\r\nb\nc\r\n") == "a\r\nB\r\nc\r\n"


def test_repeated_lines_need_a_number_that_is_one_of_theirs() -> None:
    braces = "@@ -{} +1 @@\n     {{\n+        return;\n     }}\n"
    assert apply(braces.format(12), TEXT) == TEXT.replace(
        "OnDisable()\n    {\n", "OnDisable()\n    {\n        return;\n"
    )
    for number in ("9", "0", "999"):
        with pytest.raises(PatchError, match=r"hunk 1 fits at several lines \(8, 12\): give more context"):
            edits_of(braces.format(number), TEXT)
    with pytest.raises(PatchError, match=r"hunk 2 fits at several lines \(8, 12\)"):
        edits_of(SPEED + braces.format("x"), TEXT)


def test_an_earlier_hunk_says_which_of_repeated_lines_is_meant() -> None:
    patch = "@@\n-    void OnDisable()\n+    void OnEnable()\n@@\n     {\n+        return;\n     }\n"
    expected = TEXT.replace("OnDisable()\n    {\n", "OnEnable()\n    {\n        return;\n")
    assert apply(patch, TEXT) == expected


def test_lines_that_are_not_there_are_refused_with_the_first_of_them() -> None:
    with pytest.raises(PatchError, match=r"hunk 2 does not belong .* first '    int lives;', are not in it"):
        edits_of(SPEED + "@@ -9 +9 @@\n     int lives;\n+    int more;\n", TEXT)
    with pytest.raises(PatchError, match="hunk 1 does not belong"):
        edits_of(SPEED.replace("4f", "4F"), TEXT)
    with pytest.raises(PatchError) as refused:
        edits_of("@@\n-" + "x" * 10_000, TEXT)
    assert len(str(refused.value)) < 200


def test_new_lines_alone_need_the_number_of_the_line_before_them() -> None:
    assert apply("@@ -1,0 +2 @@\n+using System;\n", TEXT) == TEXT.replace("\n", "\nusing System;\n", 1)
    assert apply("@@ -0,0 +1 @@\n+// new\n", TEXT) == "// new\n" + TEXT
    assert apply("@@ -14,0 +15 @@\n+// end\n", TEXT) == TEXT + "// end\n"
    for head in ("@@", "@@ @@", "@@ -1 +1,2 @@", "@@ -1,3 +1,4 @@", "@@ -15,0 +16 @@", "@@ -999,0 +1000 @@"):
        with pytest.raises(PatchError, match=r"hunk 1 only adds lines: it needs a line of context, or a number"):
            edits_of(f"{head}\n+// new\n", TEXT)


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("", ""),
        ("--- a/Assets/Player.cs\n+++ b/Assets/Player.cs\n", ""),
        ("diff --git a/P.cs b/P.cs\nindex 83db48f..bf269f4 100644\n--- a/P.cs\n+++ b/P.cs\n", ""),
        ("```diff\n--- a/P.cs\n+++ b/P.cs\n", "```"),
        ("\n```\n", "```\n\n"),
        ("", "\n\n"),
    ],
)
def test_what_models_put_around_a_patch_is_passed_over(before: str, behind: str) -> None:
    expected = TEXT.replace("4f", "6f")
    assert apply(before + SPEED + behind, TEXT) == expected
    assert apply((before + SPEED + behind).replace("\n", "\r\n"), TEXT) == expected


def test_the_blank_of_an_empty_context_line_may_be_missing() -> None:
    patch = "@@ -1,5 +1,5 @@\n-using UnityEngine;\n+using System;\n\n public class Player : MonoBehaviour\n\n@@ @@\n"
    patch += "     private float speed = 4f;\n\n-    void Update()\n+    void FixedUpdate()\n"
    expected = TEXT.replace("UnityEngine", "System").replace("Update", "FixedUpdate")
    assert apply(patch, TEXT) == expected


def test_lines_that_look_like_headers_are_lines_of_a_hunk() -> None:
    assert apply("@@\n--- a\n+++ b\n", "x\n-- a\n") == "x\n++ b\n"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "the patch has no hunk: it needs @@"),
        ("```diff\n```", "the patch has no hunk"),
        ("--- a/P.cs\n+++ b/P.cs\n", "the patch has no hunk"),
        ("Here it is:\n" + SPEED, "the patch begins with 'Here it is:' and not with a hunk"),
        ("*** Begin Patch\n" + SPEED, r"the patch begins with '\*\*\* Begin Patch'"),
        ("--- /dev/null\n+++ b/P.cs\n@@ -0,0 +1 @@\n+x", "makes or deletes a file"),
        ("--- a/P.cs\n+++ /dev/null\n" + SPEED, "makes or deletes a file"),
        (
            SPEED + "diff --git a/Other.cs b/Other.cs\n",
            "hunk 1: 'diff --git a/Other.cs b/Other.cs' begins with neither",
        ),
        (SPEED + "```\nThat is all.", "hunk 1: 'That is all.' begins with neither"),
        (SPEED + "@@ @@\nvoid Update()", r"hunk 2: 'void Update\(\)' begins with neither"),
    ],
)
def test_what_is_no_patch_of_one_file_is_refused(patch: str, message: str) -> None:
    with pytest.raises(PatchError, match=message):
        edits_of(patch, TEXT)


@pytest.mark.parametrize(
    "nothing",
    [
        "@@ @@\n",
        "@@ @@\n {\n",
        "@@ @@\n\n\n",
        "@@ @@\n-    void Update()\n+    void Update()\n",
        f"@@ @@\n-}}\n{NO_NEWLINE}\n+}}\n",
    ],
)
def test_a_hunk_that_changes_nothing_is_refused(nothing: str) -> None:
    with pytest.raises(PatchError, match="hunk 1 changes nothing"):
        edits_of(nothing, TEXT)
    with pytest.raises(PatchError, match="hunk 2 changes nothing"):
        edits_of(SPEED + nothing, TEXT)


def test_hunks_may_share_context() -> None:
    patch = "@@\n-a\n+A\n b\n c\n@@\n b\n c\n-d\n+D\n"
    assert apply(patch, "a\nb\nc\nd\n") == "A\nb\nc\nD\n"
    assert apply("@@\n-a\n+A\n@@\n-b\n+B\n", "a\nb\n") == "A\nB\n"
    assert apply("@@\n a\n+x\n b\n@@\n a\n b\n-c\n+C\n", "a\nb\nc\n") == "a\nx\nb\nC\n"


@pytest.mark.parametrize(
    "patch",
    [
        "@@\n-b\n-c\n+x\n@@\n-c\n+y\n",
        "@@\n-b\n-c\n@@\n b\n+x\n c\n",
        "@@\n b\n+x\n@@\n b\n+x\n",
        "@@\n-b\n+x\n@@\n-b\n+x\n",
        "@@\n-c\n+x\n@@\n-a\n+y\n",
        "@@ -3 +3 @@\n-c\n+x\n@@ -1,0 +2 @@\n+y\n",
    ],
)
def test_hunks_that_overlap_or_go_upwards_are_refused(patch: str) -> None:
    with pytest.raises(PatchError, match="hunk 2 changes what an earlier hunk changes, or what is above it"):
        edits_of(patch, "a\nb\nc\nd\n")


def test_a_number_above_an_earlier_hunk_is_not_taken_for_another_place() -> None:
    with pytest.raises(PatchError, match="hunk 2 changes what an earlier hunk changes, or what is above it"):
        edits_of("@@ -2 +2 @@\n-b\n+x\n@@ -1 +1 @@\n-a\n+y\n", "a\nb\na\n")
