"""`python -m deploy.grafana` writes what Grafana reads; with `--check` it says what is not up to date, and exits 1."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.alerts import alerts
from deploy.grafana.operations import operations
from deploy.grafana.product import product
from deploy.grafana.rules import provisioned

HERE = Path(__file__).parent
_WRITTEN = "# Written by `python -m deploy.grafana`: change deploy/grafana/rules.py or sql/grafana/rules.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def files() -> Mapping[Path, str]:
    """What the files below `deploy/grafana` must hold."""
    boards = {"operations": operations(), "product": product(), "alerts": alerts()}
    found = {Path("dashboards") / f"{name}.json": _json(made) + "\n" for name, made in boards.items()}
    rules: dict[str, Any] = json.loads(_json(provisioned()))
    text = yaml.dump(rules, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return found | {Path("provisioning/alerting/rules.yaml"): _WRITTEN + text}


def outdated(directory: Path = HERE) -> list[Path]:
    """Files below a directory that do not hold what they must, or that are there and must not be."""
    wanted = files()
    wrong = [one for one, text in wanted.items() if not _holds(directory / one, text)]
    there = {one.relative_to(directory) for one in (directory / "dashboards").glob("*.json")}
    return sorted([*wrong, *(there - set(wanted))])


def main(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 if a file is not up to date")] = False,
    directory: Annotated[Path, typer.Option(help="where the files are")] = HERE,
) -> None:
    """Write the dashboards and alert rules that Grafana reads."""
    wrong = outdated(directory)
    for one in wrong:
        typer.echo(f"{one}: not up to date" if check else f"{one}: written")
    if check:
        raise typer.Exit(bool(wrong))
    for one in set(wrong) - set(files()):
        (directory / one).unlink()
    for one, text in files().items():
        (directory / one).parent.mkdir(parents=True, exist_ok=True)
        (directory / one).write_text(text, "utf-8")


def _json(value: object) -> str:
    return json.dumps(value, cls=JSONEncoder, indent=2, ensure_ascii=False)


def _holds(file: Path, text: str) -> bool:
    return file.exists() and file.read_text("utf-8") == text


if __name__ == "__main__":
    typer.run(main)
