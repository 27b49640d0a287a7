"""What the model can call: each tool is one model that gives its JSON schema and checks what comes back.

Limits are those of the wire contract: script names of 1 to 100 characters, code and patches of at most 200,000,
paths below `Assets/`, previews of at most 4096x4096. Paths are normalised first, so that no spelling of `..` leaves
the project. Unknown arguments are refused: a model that invents one should learn of it.
"""

import posixpath
import re
import unicodedata
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from connectors.errors import SlateError

MAX_CODE: Final = 200_000
"""Longest code or patch, characters."""
MAX_SIDE: Final = 4096
"""Largest side of a preview, pixels."""
_MAX_ARGUMENTS: Final = 1 << 20
_MAX_PATH: Final = 255
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_IDENTIFIER: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_RESERVED: Final = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
# The Unity MCP server decodes %xx in some of its arguments, so that the same text would be two paths.
_FORBIDDEN: Final = re.compile(r'[<>:"|?*\\]|%[0-9A-Fa-f]{2}')
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_MAX_PART: Final = 250


class ToolArgumentError(SlateError):
    """The model called what does not exist, or with arguments that are not usable; the text is for the model."""


def asset_path(text: str) -> str:
    """Normalise a path of the Unity project.

    Raises:
        ValueError: it is not below `Assets/`, or Windows, macOS or Linux could not all hold it.
    """
    text = unicodedata.normalize("NFC", text.strip()).replace("\\", "/")
    unseen = next((one for one in text if unicodedata.category(one) in _UNSEEN), None)
    if unseen is not None:
        raise ValueError(f"holds the control character U+{ord(unseen):04X}")
    if text.startswith("/") or re.match(r"[A-Za-z]:", text):
        raise ValueError("must be relative to the project, such as Assets/Scripts/Player.cs")
    path = posixpath.normpath(text)
    if not path.startswith("Assets/"):
        raise ValueError("must be below Assets/")
    if len(path) > _MAX_PATH:
        raise ValueError(f"is longer than {_MAX_PATH} characters")
    for part in path.split("/"):
        odd = part != part.strip() or part.endswith(".") or part.startswith("~")
        if odd or _FORBIDDEN.search(part) or _RESERVED.match(part):
            raise ValueError(f"{part!r} is not a name that every file system takes")
        if len(part.encode()) > _MAX_PART:  # a file system takes 255, and Unity adds .meta
            raise ValueError(f"has a name of more than {_MAX_PART} bytes")
    return path


def _code(text: str) -> str:
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"holds the control character U+{ord(found[0]):04X} at {found.start()}")
    return text


def _folder(text: str) -> str:
    text = text.strip().rstrip("/\\")
    return "Assets" if text == "Assets" else asset_path(text)


def _ending(*endings: str) -> AfterValidator:
    def check(path: str) -> str:
        if not path.lower().endswith(endings):
            raise ValueError(f"must end with {' or '.join(endings)}")
        return path

    return AfterValidator(check)


AssetPath = Annotated[str, Field(min_length=1, max_length=_MAX_PATH), AfterValidator(asset_path)]
Folder = Annotated[str, Field(min_length=1, max_length=_MAX_PATH), AfterValidator(_folder)]
ScriptPath = Annotated[AssetPath, _ending(".cs")]
Code = Annotated[str, Field(min_length=1, max_length=MAX_CODE), AfterValidator(_code)]
Identifier = Annotated[str, Field(min_length=1, max_length=100, pattern=_IDENTIFIER)]
Channel = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=16, le=MAX_SIDE)]
Component = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,99}$")]
Target = Literal["windows64", "osx", "linux64", "android", "ios", "webgl"]


class Tool(BaseModel):
    """One call of the model, checked."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True
    )
    name: ClassVar[str]
    mutates: ClassVar[bool] = True
    """Whether it changes the project, so that it must not be repeated blindly."""
    code_fields: ClassVar[tuple[str, ...]] = ()
    """Fields whose text is code, which no event but `script_generated` carries."""


class GenerateUnityScript(Tool):
    """Write a complete C# script into the Unity project; a script of that path is replaced."""

    name = "generateUnityScript"
    code_fields = ("code",)

    script_name: Identifier = Field(description="Name of the class and of the file, without .cs")
    code: Code = Field(description="The whole C# source, with every using and the class of that name")
    folder: Folder = Field("Assets/Scripts", description="Folder below Assets/")

    @model_validator(mode="after")
    def _whole_path(self) -> Self:
        try:
            asset_path(self.path)
        except ValueError as error:
            raise ValueError(f"the path of folder and scriptName: {error}") from None
        return self

    @property
    def path(self) -> str:
        """Where the script is."""
        return f"{self.folder}/{self.script_name}.cs"


class ApplyCodePatch(Tool):
    """Change an existing C# script by a unified diff. Context lines must be those of the file."""

    name = "applyCodePatch"
    code_fields = ("patch",)

    path: ScriptPath = Field(description="The script, such as Assets/Scripts/Player.cs")
    patch: Code = Field(description="Hunks of a unified diff: @@ lines, then lines that begin with ' ', '-' or '+'")
    expected_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the file that the patch is for, when it is known"
    )


class CreateUnityPrefab(Tool):
    """Make a GameObject from a primitive and components, and save it as a prefab."""

    name = "createUnityPrefab"

    path: Annotated[AssetPath, _ending(".prefab")] = Field(description="Such as Assets/Prefabs/Player.prefab")
    primitive: Literal["Cube", "Sphere", "Capsule", "Cylinder", "Plane", "Quad"] | None = Field(
        None, description="Its shape; an empty object without it"
    )
    components: Annotated[list[Component], Field(max_length=32)] = Field(
        default_factory=list, description="Types of components to add, such as Rigidbody"
    )


class CreateUnityMaterial(Tool):
    """Create a material."""

    name = "createUnityMaterial"

    path: Annotated[AssetPath, _ending(".mat")] = Field(description="Such as Assets/Materials/Red.mat")
    shader: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w ./()-]+$")] = Field(
        "Standard", description="Shader by name, such as Universal Render Pipeline/Lit"
    )
    color: Annotated[list[Channel], Field(min_length=3, max_length=4)] | None = Field(
        None, description="Red, green, blue and, where wanted, alpha, each from 0 to 1"
    )


class RenderPreview(Tool):
    """Take a picture of what a camera of the open scene sees, and show it to the user."""

    name = "renderPreview"
    mutates = False

    camera: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w ./()-]+$")] | None = Field(
        None, description="Camera by name; the main camera without it"
    )
    width: Side = Field(640, description="Pixels")
    height: Side = Field(360, description="Pixels")


class IngestAsset(Tool):
    """Import a file that lies in the project, so that Unity can use it."""

    name = "ingestAsset"

    path: AssetPath = Field(description="The file, such as Assets/Models/Ship.fbx")


class DeconstructAsset(Tool):
    """Say what an asset is made of: its type, components and what it holds."""

    name = "deconstructAsset"
    mutates = False

    path: AssetPath = Field(description="The asset, such as Assets/Prefabs/Player.prefab")


class RunBuild(Tool):
    """Begin to build the game; answers at once with a job id, and getBuildStatus tells how it goes."""

    name = "runBuild"

    target: Target = Field(description="Platform")
    development: bool = Field(False, description="Whether it is a development build")


class GetBuildStatus(Tool):
    """Say how a build goes that runBuild began."""

    name = "getBuildStatus"
    mutates = False

    job_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")] = Field(description="Job id that runBuild gave")


TOOLS: Final[dict[str, type[Tool]]] = {
    one.name: one
    for one in (
        GenerateUnityScript,
        ApplyCodePatch,
        CreateUnityPrefab,
        CreateUnityMaterial,
        RenderPreview,
        IngestAsset,
        DeconstructAsset,
        RunBuild,
        GetBuildStatus,
    )
}
"""By the name that the model calls."""


@cache
def definitions() -> list[dict[str, Any]]:
    """The tools as a Realtime session takes them."""
    return [
        {"type": "function", "name": name, "description": (tool.__doc__ or "").strip(), "parameters": _schema(tool)}
        for name, tool in TOOLS.items()
    ]


def _schema(tool: type[Tool]) -> dict[str, Any]:
    schema = tool.model_json_schema()
    del schema["title"]
    schema.pop("description", None)
    for one in schema["properties"].values():
        one.pop("title", None)
        if "anyOf" in one:  # X | None: what may be left out needs no null
            one.update(one.pop("anyOf")[0])
            del one["default"]
    return schema


def parse(name: str, arguments: str) -> Tool:
    """Read a call of the model.

    Raises:
        ToolArgumentError: there is no such tool, or the arguments are not usable; says each fault and its field.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise ToolArgumentError(f"there is no tool {name[:100]!r}; there are {', '.join(TOOLS)}")
    if len(arguments) > _MAX_ARGUMENTS:
        raise ToolArgumentError(f"{name}: the arguments have more than {_MAX_ARGUMENTS} characters")
    try:
        return tool.model_validate_json(arguments or "{}")
    except ValidationError as error:
        faults = "; ".join(_fault(tool, one) for one in error.errors(include_input=False)[:10])
        raise ToolArgumentError(f"{name}: {faults}") from None


def _fault(tool: type[Tool], error: ErrorDetails) -> str:
    field = ".".join(map(str, error["loc"]))[:100] or "arguments"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(to_camel(one) for one in tool.model_fields)
        return f"{field!r} is no argument; there are {allowed}"
    return f"{field}: {error['msg'].removeprefix('Value error, ')}"
