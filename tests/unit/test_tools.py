"""What the model can call is what the contract allows, in schemas that OpenAI takes and in what is checked."""

import asyncio
import json
import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeFunctionTool

from flows.events import MAX_PAYLOAD
from realtime.session import MAX_INPUT
from realtime.steps import Steps
from realtime.tools import (
    MAX_CODE,
    MAX_SIDE,
    TOOLS,
    ApplyCodePatch,
    CreateUnityMaterial,
    CreateUnityPrefab,
    GenerateUnityScript,
    RenderPreview,
    RunBuild,
    ToolArgumentError,
    asset_path,
    definitions,
    parse,
)

CALLS: dict[str, dict[str, Any]] = {
    "generateUnityScript": {"scriptName": "Player", "code": "class Player {}"},
    "applyCodePatch": {"path": "Assets/Scripts/Player.cs", "patch": "@@ @@\n-a\n+b"},
    "createUnityPrefab": {"path": "Assets/Prefabs/Player.prefab"},
    "createUnityMaterial": {"path": "Assets/Materials/Red.mat"},
    "renderPreview": {},
    "ingestAsset": {"path": "Assets/Models/Ship.fbx"},
    "deconstructAsset": {"path": "Assets/Prefabs/Player.prefab"},
    "runBuild": {"target": "webgl"},
    "getBuildStatus": {"jobId": "build-1"},
}
"""The least that each tool takes."""


def call(name: str, **changes: object) -> Any:
    return parse(name, json.dumps(CALLS[name] | changes, ensure_ascii=False))


def refusal(name: str, arguments: str) -> str:
    with pytest.raises(ToolArgumentError) as refused:
        parse(name, arguments)
    assert len(str(refused.value)) < 2000
    return str(refused.value)


def properties(name: str) -> dict[str, Any]:
    (one,) = (one for one in definitions() if one["name"] == name)
    return dict(one["parameters"]["properties"])


@pytest.mark.parametrize("definition", definitions(), ids=lambda one: str(one["name"]))
def test_each_tool_is_a_plain_object_schema(definition: dict[str, Any]) -> None:
    assert RealtimeFunctionTool.model_validate(definition, strict=True).model_extra == {}
    assert definition["type"] == "function"
    assert definition["description"]
    schema = definition["parameters"]
    assert set(schema) <= {"type", "properties", "required", "additionalProperties"}
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert set(schema.get("required", [])) == set(CALLS[definition["name"]])
    assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title"} & _keys(schema)
    for one in schema["properties"].values():
        assert one["type"] in {"string", "integer", "number", "boolean", "array"}
        assert one["type"] != "array" or one["items"]["type"] in {"string", "number"}
        assert one["description"]
        assert one.get("default", "") is not None


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


def test_the_tools_are_those_of_the_contract() -> None:
    assert set(TOOLS) == set(CALLS) == {one["name"] for one in definitions()}
    reading = {"renderPreview", "deconstructAsset", "getBuildStatus"}
    assert {name for name, tool in TOOLS.items() if not tool.mutates} == reading
    assert {name: tool.code_fields for name, tool in TOOLS.items() if tool.code_fields} == {
        "generateUnityScript": ("code",),
        "applyCodePatch": ("patch",),
    }


def test_the_limits_of_the_contract_stand_in_the_schemas() -> None:
    script = properties("generateUnityScript")
    assert (script["scriptName"]["minLength"], script["scriptName"]["maxLength"]) == (1, 100)
    assert script["code"]["maxLength"] == properties("applyCodePatch")["patch"]["maxLength"] == MAX_CODE == 200_000
    preview = properties("renderPreview")
    assert preview["width"]["maximum"] == preview["height"]["maximum"] == MAX_SIDE == 4096


@pytest.mark.parametrize("name", TOOLS)
def test_the_least_that_a_tool_takes_is_enough_and_null_is_as_if_left_out(name: str) -> None:
    tool = call(name)
    assert isinstance(tool, TOOLS[name])
    optional = {field for field, about in TOOLS[name].model_fields.items() if about.default is None}
    assert call(name, **dict.fromkeys(optional)) == tool


@pytest.mark.parametrize("character", ["x", "é", "🎮", '"', "\n"])
@pytest.mark.parametrize(("tool", "field"), [("generateUnityScript", "code"), ("applyCodePatch", "patch")])
def test_code_has_at_most_200_000_characters(tool: str, field: str, character: str) -> None:
    code = character * 200_000
    arguments = json.dumps(CALLS[tool] | {field: code}, ensure_ascii=False)
    assert getattr(parse(tool, arguments), field) == code
    longer = json.dumps(CALLS[tool] | {field: code + character}, ensure_ascii=False)
    assert refusal(tool, longer) == f"{tool}: {field}: String should have at most 200000 characters"
    assert refusal(tool, json.dumps(CALLS[tool] | {field: ""})).startswith(f"{tool}: {field}: String should have at l")


def test_the_largest_script_fits_into_one_event() -> None:
    published: list[bytes] = []

    class Events:
        async def put(self, subject: str, payload: bytes, *, msg_id: str) -> None:
            published.append(payload)

    tool = call("generateUnityScript", scriptName="P" * 100, folder="Assets/" + "é" * 100, code="🎮" * MAX_CODE)
    steps = Steps(Events(), "s" * 200, "u" * 36)
    more = {"path": tool.path, "sha256": "0" * 64}
    asyncio.run(steps.script_generated(tool.script_name, tool.code, "🎮" * MAX_INPUT, **more))
    assert len(published[0]) < MAX_PAYLOAD == 1 << 20
    assert msgspec.json.decode(published[0])["scriptContent"] == tool.code


@pytest.mark.parametrize("name", ["P", "_", "Player2", "P" * 100])
def test_a_script_name_is_an_identifier_of_1_to_100_characters(name: str) -> None:
    assert call("generateUnityScript", scriptName=name).path == f"Assets/Scripts/{name}.cs"


@pytest.mark.parametrize("name", ["", "P" * 101, "2P", "a-b", "a b", "a.cs", "../a", "é", "a\n", "a\u0000", 7, None])
def test_other_script_names_are_refused_by_field(name: object) -> None:
    assert refusal("generateUnityScript", json.dumps({"scriptName": name, "code": "x"})).startswith(
        "generateUnityScript: scriptName: "
    )


@pytest.mark.parametrize("side", [16, 640, 4096])
def test_a_preview_has_sides_of_16_to_4096_pixels(side: int) -> None:
    preview = call("renderPreview", width=side, height=side)
    assert isinstance(preview, RenderPreview)
    assert (preview.width, preview.height, preview.camera) == (side, side, None)


@pytest.mark.parametrize("side", [15, 0, -1, 4097, 1 << 80, 640.5, "wide", None, [640]])
def test_other_sides_are_refused_by_field(side: object) -> None:
    assert refusal("renderPreview", json.dumps({"height": side})).startswith("renderPreview: height: ")


PARTS = st.one_of(
    st.sampled_from(["", "Assets", "assets", "..", "x", "X.cs", "nul", "COM¹.txt", "C:", "%2e", "e\u0301", "🎮" * 40]),
    st.sampled_from("./\\~é \u3000\u00a0\n\0\x85\u202e\ufeff\ud800\u2028\uff0e\u2025"),
)


@given(
    st.one_of(
        st.text(),
        st.text().map("Assets/".__add__),
        st.lists(PARTS).map(lambda parts: "Assets/" + "".join(parts)),
        st.lists(PARTS).map(lambda parts: "Assets/" + "/".join(parts)),
        st.text(st.characters(), min_size=1, max_size=5).map("Assets/{0}/{0}.cs".format),
    )
)
@example("Assets/x\u3000/")
@example("Assets/\x85/\x85x")
def test_any_text_is_refused_or_one_normalised_path_below_assets(text: str) -> None:
    try:
        path = asset_path(text)
    except ValueError:
        return
    parts = path.split("/")
    assert parts[0] == "Assets"
    assert len(parts) > 1
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in path
    assert not any(unicodedata.category(one).startswith(("Cc", "Cf", "Cs", "Zl", "Zp")) for one in path)
    assert unicodedata.is_normalized("NFC", path)
    assert len(path) <= 255
    assert all(len(part.encode()) <= 250 for part in parts)
    assert asset_path(path) == path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("Assets/x", "Assets/x"),
        ("  Assets/x\n", "Assets/x"),
        ("Assets/./x", "Assets/x"),
        ("./Assets/x", "Assets/x"),
        ("Assets//x/", "Assets/x"),
        ("Assets\\Scripts\\x.cs", "Assets/Scripts/x.cs"),
        ("Assets/a/../x", "Assets/x"),
        ("Assets/../Assets/x", "Assets/x"),
        ("Assets/Scripts/Cafe\u0301.cs", "Assets/Scripts/Café.cs"),
        ("Assets/a b/日本語 (1) 100%.png", "Assets/a b/日本語 (1) 100%.png"),
        ("Assets/\uff0e\uff0e/x", "Assets/\uff0e\uff0e/x"),  # no file system folds full-width dots: they are a name
        ("Assets/console.cs", "Assets/console.cs"),
        ("Assets/" + "x" * 248, "Assets/" + "x" * 248),
    ],
)
def test_spellings_of_a_path_below_assets_are_one_path(text: str, path: str) -> None:
    assert asset_path(text) == path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be below Assets/"),
        ("Assets", "must be below Assets/"),
        ("Assets/", "must be below Assets/"),
        ("Assets/..", "must be below Assets/"),
        ("Assets/../..", "must be below Assets/"),
        ("Assets/../../Assets/x", "must be below Assets/"),
        ("Assets\\..\\x", "must be below Assets/"),
        ("Assets/a/../../x", "must be below Assets/"),
        ("../Assets/x", "must be below Assets/"),
        ("assets/x", "must be below Assets/"),
        ("AssetsX/x", "must be below Assets/"),
        ("Packages/x", "must be below Assets/"),
        ("\uff21ssets/x", "must be below Assets/"),
        ("/Assets/x", "must be relative to the project"),
        ("\\\\host\\Assets\\x", "must be relative to the project"),
        ("C:/Assets", "must be relative to the project"),
        ("c:Assets\\x", "must be relative to the project"),
        ("file:///Assets/x", "must be below Assets/"),
        ("Assets/%2e%2e/%2E%2E/x", "'%2e%2e' is not a name"),
        ("Assets/a%2Fb", "'a%2Fb' is not a name"),
        ("Assets/.../x", "'...' is not a name"),
        ("Assets/x.", "'x.' is not a name"),
        ("Assets/.. /x", "'.. ' is not a name"),
        ("Assets/x /y", "'x ' is not a name"),
        ("Assets/x\u3000/", "is not a name"),
        ("Assets/x:stream", "'x:stream' is not a name"),
        ("Assets/~/x", "'~' is not a name"),
        ("Assets/x*", r"is not a name"),
        ("Assets/nul", "'nul' is not a name"),
        ("Assets/Con.cs", "'Con.cs' is not a name"),
        ("Assets/aux /x", "'aux ' is not a name"),
        ("Assets/AUX .cs", "'AUX .cs' is not a name"),
        ("Assets/com1.txt", "'com1.txt' is not a name"),
        ("Assets/LPT²", "'LPT²' is not a name"),
        ("Assets/CONOUT$", "is not a name"),
        ("Assets/x\0.cs", r"holds the control character U\+0000"),
        ("Assets/x\ny", r"holds the control character U\+000A"),
        ("Assets/x\x9f", r"holds the control character U\+009F"),
        ("Assets/x\u202esc.cs", r"holds the control character U\+202E"),
        ("Assets/\ufeffx", r"holds the control character U\+FEFF"),
        ("Assets/x\u2028y", r"holds the control character U\+2028"),
        ("Assets/\ud800", r"holds the control character U\+D800"),
        ("Assets/" + "x/" * 125, "is longer than 255 characters"),
        ("Assets/" + "日" * 84, "has a name of more than 250 bytes"),
    ],
)
def test_what_is_not_below_assets_or_no_name_everywhere_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        asset_path(text)


@pytest.mark.parametrize(("name", "ending"), [("applyCodePatch", ".cs"), ("createUnityPrefab", ".prefab")])
def test_a_path_that_is_written_has_the_ending_of_its_kind(name: str, ending: str) -> None:
    assert call(name, path=f"Assets\\.\\X{ending.upper()}").path == f"Assets/X{ending.upper()}"
    for path in ("Assets/X", f"Assets/X{ending}.meta", f"Assets/{ending}/x"):
        assert refusal(name, json.dumps(CALLS[name] | {"path": path})) == f"{name}: path: must end with {ending}"


@pytest.mark.parametrize(
    ("folder", "path"),
    [("Assets", "Assets/P.cs"), (" Assets/ ", "Assets/P.cs"), ("Assets\\Editor\\", "Assets/Editor/P.cs")],
)
def test_a_script_lies_in_its_folder(folder: str, path: str) -> None:
    assert call("generateUnityScript", scriptName="P", folder=folder).path == path


def test_folder_and_name_of_a_script_are_a_path_too() -> None:
    assert call("generateUnityScript", folder="Assets/" + "x/" * 119).path.endswith("/x/Player.cs")
    long = refusal("generateUnityScript", json.dumps(CALLS["generateUnityScript"] | {"folder": "Assets/" + "x/" * 123}))
    assert long.endswith("the path of folder and scriptName: is longer than 255 characters")
    assert "'nul.cs' is not a name" in refusal("generateUnityScript", '{"scriptName": "nul", "code": "x"}')
    assert "folder: must be below Assets/" in refusal(
        "generateUnityScript", json.dumps(CALLS["generateUnityScript"] | {"folder": "Assets/../Editor"})
    )


@pytest.mark.parametrize("name", ["", "generateunityscript", "deleteAsset", "x" * 5000])
def test_an_unknown_tool_is_answered_with_those_there_are(name: str) -> None:
    assert refusal(name, "{}") == f"there is no tool {name[:100]!r}; there are {', '.join(TOOLS)}"


@pytest.mark.parametrize("name", TOOLS)
def test_an_unknown_argument_is_answered_with_those_there_are(name: str) -> None:
    said = refusal(name, json.dumps(CALLS[name] | {"overwrite": "hunter2"}))
    assert said == f"{name}: 'overwrite' is no argument; there are {', '.join(properties(name))}"


@pytest.mark.parametrize(
    ("name", "arguments", "faults"),
    [
        ("runBuild", "", ["target: Field required"]),
        ("runBuild", " ", ["arguments: Invalid JSON: EOF"]),
        ("runBuild", '{"target": "osx"', ["arguments: Invalid JSON: EOF"]),
        ("runBuild", '{"target": "osx"} and more', ["arguments: Invalid JSON: trailing characters"]),
        ("runBuild", "[" * 100_000, ["arguments: Invalid JSON: recursion limit"]),
        ("runBuild", '["osx"]', ["arguments: Input should be an object"]),
        ("runBuild", "null", ["arguments: Input should be an object"]),
        ("runBuild", '{"target": "amiga"}', ["target: Input should be 'windows64', 'osx', 'linux64', 'android', "]),
        ("runBuild", '{"target": "osx", "development": "perhaps"}', ["development: Input should be a valid boolean"]),
        ("runBuild", '{"target": "\ud800"}', ["arguments: "]),
        ("generateUnityScript", '{"scriptName": "P", "code": 7}', ["code: Input should be a valid string"]),
        ("generateUnityScript", "{}", ["scriptName: Field required", "code: Field required"]),
        ("applyCodePatch", "{}", ["path: Field required; patch: Field required"]),
        ("createUnityMaterial", '{"path": "Assets/x.mat", "color": "red"}', ["color: Input should be a valid array"]),
        ("createUnityMaterial", '{"path": "Assets/x.mat", "color": [1, 1]}', ["color: List should have at least 3"]),
        ("createUnityMaterial", '{"path": "Assets/x.mat", "color": [2, NaN, -1]}', ["color.0: ", "color.1", "color.2"]),
        ("createUnityMaterial", '{"path": "Assets/x.mat", "shader": "a\\nb"}', ["shader: String should match"]),
        ("createUnityPrefab", '{"path": "Assets/x.prefab", "components": ["a b"]}', ["components.0: String should m"]),
        (
            "createUnityPrefab",
            '{"path": "Assets/x.prefab", "primitive": "Cone"}',
            ["primitive: Input should be 'Cube'"],
        ),
        ("getBuildStatus", '{"jobId": "../x"}', ["jobId: String should match pattern"]),
        ("renderPreview", '{"camera": ""}', ["camera: String should have at least 1 character"]),
    ],
)
def test_what_is_wrong_is_told_by_tool_and_field(name: str, arguments: str, faults: list[str]) -> None:
    said = refusal(name, arguments)
    assert said.startswith(f"{name}: ")
    assert all(one in said for one in faults), said


def test_arguments_of_more_than_a_mebibyte_are_not_read() -> None:
    padding = " " * ((1 << 20) - 2)
    assert parse("renderPreview", "{" + padding + "}") == call("renderPreview")
    said = refusal("renderPreview", "{" + padding + " }")
    assert said == "renderPreview: the arguments have more than 1048576 characters"


@pytest.mark.parametrize("name", TOOLS)
def test_no_refusal_repeats_what_it_refuses(name: str) -> None:
    secret = "hunter2" * 10_000
    said = [refusal(name, json.dumps({field: secret})) for field in properties(name) if field not in {"code", "patch"}]
    said += [refusal(name, text) for text in (secret, json.dumps(secret), json.dumps([secret]))]
    said.append(refusal(name, json.dumps(CALLS[name] | {secret: 1})))
    said.append(refusal(name, json.dumps({f"{number}{secret}": 1 for number in range(10)})))
    assert max(one.count("hunter2") for one in said) <= 15 * 10  # the beginnings of ten unknown names


@pytest.mark.parametrize(
    ("escaped", "why"),
    [
        ("\\u0000", "code: holds the control character U+0000 at 5"),
        ("\\u001b", "code: holds the control character U+001B at 5"),
        ("\\u007f", "code: holds the control character U+007F at 5"),
        ("\\ud83c", "arguments: Invalid JSON: "),
        ("\\udfae", "arguments: Invalid JSON: "),
        ("\ud83c", "arguments: Input should be a valid string"),
        ("\0", "arguments: Invalid JSON: control character"),
    ],
)
def test_code_holds_no_nul_and_no_half_of_a_pair(escaped: str, why: str) -> None:
    said = refusal("generateUnityScript", f'{{"scriptName": "P", "code": "class{escaped}"}}')
    assert said.startswith(f"generateUnityScript: {why}")


def test_code_keeps_what_is_text() -> None:
    code = "\ufeff// é 🎮 \u202e \u2028\r\n\tclass P {}\f"[:-1]
    assert call("generateUnityScript", code=code).code == code
    with pytest.raises(ValueError, match="unable to parse raw data as a unicode string"):
        GenerateUnityScript.model_validate({"script_name": "P", "code": "x\ud800"})


def test_arguments_are_read_into_the_tool() -> None:
    sha = "a" * 64
    patch = call("applyCodePatch", expectedSha256=sha)
    assert patch == ApplyCodePatch(path="Assets/Scripts/Player.cs", patch="@@ @@\n-a\n+b", expected_sha256=sha)
    prefab = call("createUnityPrefab", primitive="Cube", components=["Rigidbody", "UnityEngine.Light"])
    assert isinstance(prefab, CreateUnityPrefab)
    assert (prefab.primitive, prefab.components) == ("Cube", ["Rigidbody", "UnityEngine.Light"])
    material = call("createUnityMaterial", shader="Universal Render Pipeline/Lit", color=[1, 0, 0.5])
    assert isinstance(material, CreateUnityMaterial)
    assert material.color == [1.0, 0.0, 0.5]
    build = call("runBuild", development=True)
    assert build == RunBuild(target="webgl", development=True)
