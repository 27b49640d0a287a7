"""What the documents name is there: files, commands with their options, targets of make, settings."""

import re
from pathlib import Path
from typing import Final

import pytest

from deploy.processes import variables
from tests.unit.test_runbooks import problems

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS: Final = {"SLATE_GRAFANA_PASSWORD", "SLATE_PROMETHEUS_URL", "SLATE_GRAFANA_DASHBOARDS"}
"""Variables of Grafana's provisioning, which this project does not read."""
_LINK: Final = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_BLOCK: Final = re.compile(r"^ {4,}(\S.*)$", re.MULTILINE)
_SETTING: Final = re.compile(r"\bSLATE_[A-Z0-9_]*[A-Z0-9]\b")
page = pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)


def code(text: str) -> list[str]:
    """Everything that is written as code."""
    return [*_SPAN.findall(text), *_BLOCK.findall(text)]


@page
def test_links_lead_somewhere(file: Path) -> None:
    assert [link for link in _LINK.findall(file.read_text("utf-8")) if not (file.parent / link).exists()] == []


@page
def test_files_that_are_named_are_there(file: Path) -> None:
    named = re.findall(r"`((?:connectors|flows|realtime|sql|deploy|tests)/[\w./-]*\w)`", file.read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@page
def test_commands_take_the_options_that_are_written(file: Path) -> None:
    for text in code(file.read_text("utf-8")):
        command = re.search(r"(?:^|[ /])slate ([a-z][a-z-]*(?: .*)?)$", re.split(" {2,}", text)[0].strip())
        if command and not text.startswith(("docker", "kubectl", "systemd", "useradd", "install", "chown", "psql")):
            words = command[1].replace("'", "").replace('"', "").split()
            assert list(problems([word for word in words if word != "\\"])) == [], text


@page
def test_targets_of_make_are_there(file: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for text in code(file.read_text("utf-8")) for word in re.findall(r"^make ([a-z]+)", text)}
    assert named <= targets


@page
def test_settings_that_are_named_are_there(file: Path) -> None:
    known = {*variables().values(), *OTHERS} | {f"{name}_FILE" for name in variables().values()}
    known |= {f"{name}{end}" for name in alert_variables() for end in ("", "_FILE")}
    named = set(_SETTING.findall(file.read_text("utf-8")))
    assert {name for name in named - known if not any(one.startswith(name) for one in known)} == set()


def alert_variables() -> set[str]:
    """Variables that our rules of alerts name, which may be any."""
    return set(re.findall(r'"(SLATE_[A-Z_]+)"', (ROOT / "deploy" / "alerts.toml").read_text()))
