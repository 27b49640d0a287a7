"""What tests of units, containers and manifests ask of each."""

import importlib
import importlib.util
import os
import re
import shutil
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import variables

ROOT: Final = Path(__file__).parents[2]
SYSTEMD: Final = ROOT / "deploy" / "systemd"
CONTAINER: Final = ROOT / "deploy" / "container"
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
OPERATIONS: Final = ROOT / "docs" / "operations.md"

UNITS: Final = sorted(one.name for one in SYSTEMD.iterdir() if one.suffix in (".service", ".timer", ".target"))
SERVICES: Final = [one for one in UNITS if one.endswith(".service")]
LONG_RUNNING: Final = ["slate-api.service", "slate-ingest@.service", "slate-rollups@.service"]
WORKERS: Final = ("slate-ingest", "slate-rollups")
OF_SERVERS: Final = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"}
"""Variables that PostgreSQL's image reads."""
ROLES: Final = {
    "migrate": "slate_owner",
    "maintain": "slate_owner",
    "ingest": "slate_writer",
    "rollups": "slate_writer",
    "api": "slate_reader",
}
DRAIN_S: Final = 2 * (Settings.model_fields["db_statement_timeout_s"].default + 15)
"""Longest drain: two groups, each with a statement and the wait for a PostgreSQL that is away (README, Commands)."""
SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|NATS_URL|WEBHOOK_URL|ANALYTICS_URL")
VARIABLE: Final = re.compile(
    r"\b(?:SLATE|SPARK|NATS|REDIS|UNITY|OPENAI|SLACK|PAGERDUTY|POSTGRES)_[A-Z_]*[A-Z]\b(?!\*|_)"
)
PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*(?:\[[^]]*\])?==\S+)((?:.|\n(?![a-z0-9]))*)", re.MULTILINE)


def known() -> set[str]:
    """Variables that this project reads: the settings, and what the alert rules name."""
    rules = tomllib.loads((ROOT / "deploy" / "alerts.toml").read_text())
    named = {one[key] for one in rules["receivers"] for key in ("env", "secret_env") if key in one}
    return {*variables().values(), *named}


def assert_exists(command: list[str]) -> None:
    """Whether there is what a command line starts: a command of `slate`, a module, a dataflow in it."""
    program, *arguments = command
    if Path(program).name == "slate":
        commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
        assert arguments[0] in {*commands, "--help"}, command
        return
    assert Path(program).name == "python", command
    assert arguments[0] == "-m", command
    name = arguments[1]
    assert importlib.util.find_spec(name) is not None, command
    if name == "bytewax.run":
        assert callable(importlib.import_module(arguments[2]).flow), command
    else:
        assert importlib.util.find_spec(f"{name}.__main__") is not None, command


def setting_of(variable: str) -> str:
    """The setting that a variable, or one that names its file, is for."""
    return variable if variable in known() else variable.removesuffix("_FILE")


def written_without_secrets(environment: Mapping[str, str]) -> None:
    """Whether an environment has settings that exist, and secrets as files only."""
    for variable, value in environment.items():
        name = setting_of(variable)
        assert name in known() or variable in OF_SERVERS, variable
        if SECRET.search(name):
            assert variable == f"{name}_FILE", f"{variable} is in the environment"
            assert value.endswith(f"/{name}") or name == "POSTGRES_PASSWORD", variable


def own_program(name: str) -> Path:
    """A program of the development environment, or of PATH."""
    found = shutil.which(name, path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is missing: make install")
    return Path(found)


def options(unit: str) -> dict[str, str]:
    """A unit's options; of one that is repeated, the last."""
    lines = [line for line in (SYSTEMD / unit).read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    return loaded


def ours() -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose()["services"].items() if one["image"].startswith("slate:")}


def manifests() -> list[dict[str, Any]]:
    customization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert set(customization["resources"]) == {one.name for one in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    return [one for name in customization["resources"] for one in yaml.safe_load_all((KUBERNETES / name).read_text())]


def _specs(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for one in value.values():
            yield from _specs(one)


def pods() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: spec for one in manifests() for spec in _specs(one)}
