"""The bill of materials says what is installed, in the same bytes each time."""

import json
import re

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import bom

A, B = "a" * 64, "b" * 64
LOCK = f"""# a comment
One==1.0 \\
    --hash=sha256:{A}
Two.Words[x]==2.0+cpu \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
"""
RECORD = {"id": "cpu-1", "vllm": "0.32.0", "lock": LOCK}


def package(site, name, version, *lines):
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]) + "\n")


@pytest.fixture
def site(tmp_path):
    package(tmp_path, "Two.Words", "2.0+cpu", "License-Expression: Apache-2.0 OR MIT")
    package(tmp_path, "One", "1.0", "License: MIT", "Classifier: License :: OSI Approved :: MIT License")
    package(tmp_path, "three", "3.0", "License: " + "a whole text " * 20)
    return str(tmp_path)


def test_it_has_what_the_format_requires(site):
    found = json.loads(bom.text(bom.bill(RECORD, site)))
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found["serialNumber"])
    references = [one["bom-ref"] for one in found["components"]]
    assert len(set(references)) == len(references)
    assert all({"type", "name"} <= one.keys() for one in found["components"])


def test_packages_licenses_and_hashes(site):
    one, three, two = bom.bill(RECORD, site)["components"]
    assert (one["purl"], one["licenses"]) == ("pkg:pypi/one@1.0", [{"license": {"name": "MIT License"}}])
    assert one["hashes"] == [{"alg": "SHA-256", "content": A}]
    assert (two["purl"], two["licenses"]) == ("pkg:pypi/two-words@2.0%2Bcpu", [{"expression": "Apache-2.0 OR MIT"}])
    assert [row["value"] for row in two["properties"]] == [A, B]
    assert not {"licenses", "hashes", "properties"} & three.keys()


def test_the_same_environment_gives_the_same_bytes(site):
    assert bom.text(bom.bill(RECORD, site)) == bom.text(bom.bill(RECORD, site))
