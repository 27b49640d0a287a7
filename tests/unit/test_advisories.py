"""Advisories of a copied database against what is pinned."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.supply.advisories import affected, main
from tests.supply.pins import Pin, all_pins

PINS = {
    ("pypi", "one-two"): [Pin("pypi", "one-two", "2.5.0", "shipped", ())],
    ("npm", "@a/b"): [Pin("npm", "@a/b", "2.5.0", "shipped", ())],
}


def advisory(name: str = "One_Two", ecosystem: str = "PyPI", **told: Any) -> dict[str, Any]:
    return {"id": "X-1", "affected": [{"package": {"name": name, "ecosystem": ecosystem}, **told}]}


def between(*events: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"type": "ECOSYSTEM", "events": [{kind: version} for kind, version in events]}]


@pytest.mark.parametrize(
    ("told", "is_affected"),
    [
        (advisory(ranges=between(("introduced", "0"))), True),
        (advisory(ranges=between(("introduced", "0"), ("fixed", "2.5.0"))), False),
        (advisory(ranges=between(("introduced", "0"), ("fixed", "2.5.1"))), True),
        (advisory(ranges=between(("introduced", "2.6"))), False),
        (advisory(ranges=between(("introduced", "0"), ("last_affected", "2.5.0"))), True),
        (advisory(ranges=between(("introduced", "0"), ("last_affected", "2.4.9"))), False),
        (advisory(ranges=between(("introduced", "2.4"), ("fixed", "1.1"), ("introduced", "1.0"))), True),
        (advisory(ranges=between(("introduced", "no version"))), True),
        (advisory(versions=["2.5.0"]), True),
        (advisory(versions=["2.5.1"]), False),
        (advisory(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]), False),
        (advisory(versions=["2.5.0"]) | {"withdrawn": "2026-01-01"}, False),
        (advisory("@a/b", "npm", versions=["2.5.0"]), True),
        (advisory("@a/b", "PyPI", versions=["2.5.0"]), False),
        (advisory("three", versions=["2.5.0"]), False),
        ({"id": "X-1"}, False),
    ],
)
def test_a_range_a_list_of_versions_and_what_was_withdrawn(told: dict[str, Any], is_affected: bool) -> None:
    assert bool(list(affected(told, PINS))) is is_affected


def test_the_command_fails_for_what_is_pinned_and_for_an_empty_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path) == 1
    (tmp_path / "other.json").write_text(json.dumps(advisory(versions=["2.5.0"])))
    (tmp_path / "other.yaml").write_text("id: X-2\naffected: []\nmodified: 2026-11-01T00:00:00Z\n")
    assert main(tmp_path) == 0
    assert "2 advisories, the newest changed at 2026-11-01" in capsys.readouterr().out
    pin = next(pin for pin in all_pins() if pin.name == "bytewax")
    (tmp_path / "ours.json").write_text(json.dumps(advisory("Bytewax", versions=[pin.version])))
    assert main(tmp_path) == 1
    assert f"pkg:pypi/bytewax@{pin.version} (shipped): X-1" in capsys.readouterr().out
