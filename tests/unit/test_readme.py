"""README.md: what it says of the settings is what the code does."""

import re
from pathlib import Path

from connectors.settings import Settings
from deploy.processes import variables

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| \S.* \|$", re.MULTILINE)


def written(default: object) -> str:
    return "not set" if default is None else f"`{str(default).removesuffix('.0')}`"


def test_the_readme_lists_exactly_the_settings_of_the_code_in_their_order_and_with_their_defaults() -> None:
    text = README.read_text("utf-8").partition("\n## Settings\n")[2].partition("\n## ")[0]
    expected = [(name, written(Settings.model_fields[field].default)) for field, name in variables().items()]
    assert ROW.findall(text) == expected
