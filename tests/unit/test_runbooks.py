"""docs/runbooks.md: each alert has its section, and what a section tells people to type or to look for is there."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from deploy.cli import app
from deploy.processes import variables

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
RULES: Final = (
    ROOT / "deploy" / "prometheus" / "rules" / "alerting.yml",
    ROOT / "deploy" / "grafana" / "provisioning" / "alerting" / "rules.yaml",
)
ALERTS: Final = tomllib.loads((ROOT / "deploy" / "alerts.toml").read_text("utf-8"))
GROUPS: Final = ["Look here first", "Workers", "Ingest", "Rollups", "Alerts", "Sessions", "Servers"]

_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LOGGED: Final = re.compile(r"\b[Ll]og(?: of rollups)?,? ((?:`[^`]+`(?:, | or )?)+)")
_SECTION: Final = re.compile(r"^### (\S+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def named() -> list[str]:
    """What rules call their runbooks."""
    return [name for one in RULES for name in re.findall(r"\brunbook: docs/runbooks\.md#(\S+)", one.read_text("utf-8"))]


def code() -> list[str]:
    """Everything that is written as code, in the text and in blocks of its own."""
    blocks = re.findall(r"^ {4,}(\S.*)$", TEXT, re.MULTILINE)
    return [*_SPAN.findall(TEXT), *blocks]


def commands(program: str) -> list[list[str]]:
    """The arguments of a program, wherever it is named."""
    return [shlex.split(one)[len(program.split()) :] for one in code() if f"{one} ".startswith(f"{program} ")]


def problems(arguments: list[str]) -> Iterator[str]:
    """What `slate` would not take of these arguments: words of commands and options, not their values."""
    command: Any = get_command(app)
    words = iter(arguments)
    while hasattr(command, "commands"):
        word = next(words, None)
        if word is None:
            return
        if word not in command.commands:
            yield f"{command.name} has no {word}"
            return
        command = command.commands[word]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    yield from (f"{command.name} has no {word}" for word in words if word.startswith("--") and word not in known)


def sources() -> str:
    """All code of the project."""
    packages = ("connectors", "flows", "realtime", "realtime/api", "deploy")
    return "\n".join(one.read_text("utf-8") for name in packages for one in (ROOT / name).glob("*.py"))


def test_each_runbook_that_a_rule_names_is_a_heading_and_each_heading_is_named() -> None:
    headings = [name for name, _ in _SECTION.findall(TEXT)]
    assert len(named()) > 30
    assert sorted(headings) == sorted(set(named()))


def test_sections_stand_in_groups() -> None:
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == GROUPS


@pytest.mark.parametrize(("name", "section"), _SECTION.findall(TEXT), ids=lambda one: one if len(one) < 40 else "")
def test_a_section_says_what_it_means_how_to_see_it_why_it_is_and_what_to_do(name: str, section: str) -> None:
    assert re.findall(r"^- (Users|See|Why|Do): \S", section, re.MULTILINE) == ["Users", "See", "Why", "Do"], name


def test_rules_on_events_and_budgets_are_told_of_by_their_names() -> None:
    names = [one["name"] for one in (*ALERTS["rules"], *ALERTS["budgets"])]
    table = TEXT.partition("| rule | what to do |")[2].partition("\n\n")[0]
    told = [name for row in table.splitlines() for name in _SPAN.findall(row.partition(" | ")[0])]
    assert sorted(told) == sorted(names)


def test_each_command_of_slate_is_one() -> None:
    found = commands("slate")
    assert len(found) > 20
    assert [one for arguments in found for one in problems(arguments)] == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("stop", "slate has no stop"),
        ("alerts mute", "alerts has no mute"),
        ("audit --fix", "audit has no --fix"),
        ("dead-letters replay --stage store --force", "replay has no --force"),
    ],
)
def test_a_command_that_slate_does_not_have_is_found(wrong: str, said: str) -> None:
    assert list(problems(wrong.split())) == [said]


def test_each_module_that_is_to_be_run_is_there() -> None:
    modules = [words[0] for words in commands("python -m")] + [words[0] for words in commands("python -m bytewax.run")]
    assert {"bytewax.run", "flows.ingest", "flows.rollups", "realtime.api"} <= set(modules)
    assert [one for one in modules if importlib.util.find_spec(one) is None] == []


def test_each_setting_is_one() -> None:
    receivers = {one[key] for one in ALERTS["receivers"] for key in ("env", "secret_env") if key in one}
    found = {one for text in code() for one in re.findall(r"\b(?:[A-Z]+_)+[A-Z]+\b", text)}
    assert len(found) > 20
    assert found - receivers - set(variables().values()) == set()


def test_what_is_to_be_looked_for_in_logs_is_logged() -> None:
    found = [text for texts in _LOGGED.findall(TEXT) for text in _SPAN.findall(texts)]
    everything = sources()
    assert len(found) > 15
    assert [text for text in found if text not in everything] == []


def test_each_table_and_each_figure_of_prometheus_is_there() -> None:
    schema = (ROOT / "sql" / "schema.sql").read_text("utf-8")
    tables = {one.rpartition(".")[2] for one in re.findall(r"\b(?:FROM|UPDATE) (?:public\.|slate\.)?(\w+)", TEXT)}
    assert {one for one in tables - {"pg_stat_activity"} if not re.search(rf"CREATE \w+ \w+\.{one}\b", schema)} == set()
    recorded = "".join(one.read_text("utf-8") for one in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
    figures = {one for text in code() for one in re.findall(r"\b(?:slate|partition):[\w:]+", text)}
    assert len(figures) > 3
    assert {one for one in figures if f"record: {one}\n" not in recorded} == set()
