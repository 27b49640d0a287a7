"""The software bill of materials, CycloneDX 1.6: `python -m tests.supply.sbom FILE`, which is `make sbom`.

`cyclonedx-py` reads licences and dependencies off the installed packages; hashes and what is not installed here come
from the lock files. What is shipped has the scope `required`, all else `excluded`.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import jsonschema_rs

from tests.supply.pins import REPOSITORY, Pin, all_pins, normal

TOOLS: Final = Path(sys.prefix) / "tools" / "bin"
"""An environment of its own: `make check` makes it."""
UNITY_MCP: Final = Path(sys.prefix) / "unity-mcp" / "bin" / "python"
LICENCE_FILES: Final = {
    "bytewax": "Apache-2.0",
    "grafana-foundation-sdk": "Apache-2.0",
    "kubernetes-validate": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "pysocks": "BSD-3-Clause",
}
"""Read in the licence files of packages whose metadata do not say it in a form that tools know."""
_NAMES: Final = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_SCHEMAS: Final = "lib/python*/site-packages/cyclonedx/schema/_res"


def bill() -> dict[str, Any]:
    """The bill as JSON: every pinned package, and what is needed by which."""
    told = _environment(Path(sys.executable))
    found = told["components"]
    if UNITY_MCP.exists():
        found = [*_environment(UNITY_MCP)["components"], *found]
    installed = {f"pkg:pypi/{normal(one['name'])}@{one['version']}": one for one in found}
    components = [_component(pin, installed.get(pin.purl, {})) for pin in all_pins()]
    kept = {one["bom-ref"] for one in components}
    told["components"] = sorted(components, key=lambda one: str(one["purl"]))
    told["dependencies"] = [
        {"ref": one["ref"], "dependsOn": sorted(kept.intersection(one.get("dependsOn", [])))}
        for one in told["dependencies"]
        if one["ref"] in kept
    ]
    told["metadata"]["component"] = _project()
    return told


def _environment(python: Path) -> dict[str, Any]:
    options = ["--no-validate", "--output-reproducible", "--spec-version", "1.6", "--output-file", "-", str(python)]
    done = subprocess.run([TOOLS / "cyclonedx-py", "environment", *options], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def validate(told: dict[str, Any]) -> list[str]:
    """What the schema of CycloneDX, which comes with `cyclonedx-py`, says against a bill."""
    (schemas,) = TOOLS.parent.glob(_SCHEMAS)

    def retrieve(address: str) -> Any:
        return json.loads((schemas / address.rpartition("/")[2]).read_text("utf-8"))

    schema = retrieve("bom-1.6.SNAPSHOT.schema.json")
    validator = jsonschema_rs.validator_for(schema, retriever=retrieve, validate_formats=True)
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(told)]


def licence(component: dict[str, Any]) -> str | None:
    """A component's licence as an SPDX expression; None where nobody says it."""
    found = [one.get("expression") or one["license"].get("id") for one in component.get("licenses", [])]
    return " OR ".join(map(str, found)) or None


def _component(pin: Pin, installed: dict[str, Any]) -> dict[str, Any]:
    name = pin.name.rpartition("/")[2]
    made = {"type": "library", "name": name, "version": pin.version, "bom-ref": pin.purl} | installed
    if pin.name.startswith("@"):
        made["group"] = pin.name.partition("/")[0]
    made["purl"] = pin.purl
    made["scope"] = "required" if pin.purpose == "shipped" else "excluded"
    made["hashes"] = [{"alg": algorithm, "content": digits} for algorithm, digits in pin.hashes]
    made["properties"] = [*made.get("properties", []), {"name": "slate:purpose", "value": pin.purpose}]
    names = {_known(one, pin) for one in made.get("licenses", [])} or {pin.licence or LICENCE_FILES.get(pin.name)}
    if licences := sorted(one for one in names if one):
        expression = " OR ".join(licences)
        simple = " " not in expression
        made["licenses"] = [{"license": {"id": expression}} if simple else {"expression": expression}]
    return made


def _known(told: dict[str, Any], pin: Pin) -> str | None:
    if "expression" in told:
        return f"({told['expression']})" if " " in told["expression"] else str(told["expression"])
    one = told["license"]
    return one.get("id") or _NAMES.get(one["name"]) or LICENCE_FILES.get(pin.name)


def _project() -> dict[str, Any]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    return {
        "type": "application",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": project["license"]}}],
    }


def main(path: Path) -> str | None:
    """Write the bill, and say what is in it; returns what is wrong with it."""
    told = bill()
    if wrong := validate(told):
        return "the bill does not follow the schema: " + "\n".join(wrong)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    shipped = [one for one in told["components"] if one["scope"] == "required"]
    unknown = [one["purl"] for one in told["components"] if licence(one) is None]
    print(f"{path}: {len(told['components'])} packages, {len(shipped)} of them shipped")
    print(f"licence unknown, for they are not installed here: {', '.join(unknown) or 'of none'}")
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
