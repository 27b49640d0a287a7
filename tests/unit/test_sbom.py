"""The bill of materials has every pinned package, with hashes and licence, and follows the schema."""

import re
from typing import Any

import pytest

from tests.supply import sbom
from tests.supply.pins import LOCKS, REPOSITORY, all_pins, read_lock

MAY_SHIP = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0"),
    *("PSF-2.0", "OR", "AND"),
}
"""Licences that what is shipped may have beside our Apache-2.0: nothing that asks for our own source."""
OTHER_PLATFORMS = {"async-timeout", "httpx2-jsfetch", "tzdata"}
"""For older Pythons, browsers and Windows: not installed where the tests run."""


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    if not (sbom.TOOLS / "cyclonedx-py").exists():
        pytest.skip("cyclonedx-py is missing: `make check` installs it into an environment of its own")
    return sbom.bill()


def test_a_lock_is_read_with_versions_extras_and_hashes() -> None:
    first, second, other = "a" * 64, "b" * 64, "c" * 64
    text = f"one.two==1.0 ; python_version < '3.12' \\\n    --hash=sha256:{first} \\\n    --hash=sha256:{second}\n"
    text += f"    # via three\nThree[extra]==2.0.post1 \\\n    --hash=sha256:{other}\n"
    one, three = read_lock(text, "shipped")
    assert (one.purl, [digits for _, digits in one.hashes]) == ("pkg:pypi/one-two@1.0", [first, second])
    assert (three.purl, [digits for _, digits in three.hashes]) == ("pkg:pypi/three@2.0.post1", [other])


def test_every_pinned_package_is_in_the_bill_with_its_hashes(bill: dict[str, Any]) -> None:
    listed = {one["purl"]: {each["content"] for each in one["hashes"]} for one in bill["components"]}
    assert len(listed) == len(bill["components"])
    for path in LOCKS.values():
        text = (REPOSITORY / path).read_text("utf-8")
        pins = read_lock(text, "")
        assert len(pins) == sum("==" in line and line[0] not in " #" for line in text.splitlines())
        for pin in pins:
            assert pin.hashes
            assert listed[pin.purl] >= {digits for _, digits in pin.hashes}
    assert {"pkg:npm/uplot@1.6.32", "pkg:npm/%40highlightjs/cdn-assets@11.12.0"} <= set(listed)
    assert set(listed) == {pin.purl for pin in all_pins()}


def test_what_is_shipped_has_a_licence_that_allows_it(bill: dict[str, Any]) -> None:
    shipped = {one["name"]: sbom.licence(one) for one in bill["components"] if one["scope"] == "required"}
    assert "bytewax" in shipped
    assert "pytest" not in shipped
    assert {name for name, told in shipped.items() if told is None} <= OTHER_PLATFORMS
    others = {name: told for name, told in shipped.items() if told and set(re.findall(r"[\w.-]+", told)) - MAY_SHIP}
    assert not others


def test_the_bill_follows_the_schema_and_one_that_does_not_is_told(bill: dict[str, Any]) -> None:
    assert sbom.validate(bill) == []
    one = bill["components"][0]
    for wrong in ({"scope": "perhaps"}, {"licenses": [{"license": {"id": "GPL-17"}}]}, {"hashes": [{"alg": "CRC"}]}):
        assert sbom.validate(bill | {"components": [one | wrong]})
