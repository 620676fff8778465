"""The kas files and bitbake-setup configurations are what those two programs accept, and do enable the class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

TOP = Path(__file__).resolve().parents[1]
KAS_FILES = sorted((TOP / "kas").glob("*.yml"))
SETUP_FILES = sorted((TOP / "bitbake-setup").glob("*.conf.json"))
OE_ROOT = Path(os.environ.get("DETBUILD_OE_ROOT", "/opt/oe"))


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def bitbake_setup(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "bitbake-setup"
    return subprocess.run(
        [program, "--color", "never", *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_there_is_a_configuration_for_each_series() -> None:
    assert [path.name for path in KAS_FILES] == ["detbuild-wrynose.yml", "detbuild.yml"]
    assert [path.name for path in SETUP_FILES] == ["detbuild-master.conf.json", "detbuild-wrynose.conf.json"]


@pytest.mark.parametrize("path", KAS_FILES, ids=lambda path: path.name)
def test_a_kas_file_passes_kas_own_schema(path: Path) -> None:
    schema = json.loads((resources.files("kas") / "schema-kas.json").read_text())
    jsonschema.Draft7Validator(schema).validate(load(path))


@pytest.mark.parametrize("path", KAS_FILES, ids=lambda path: path.name)
def test_what_a_kas_file_includes_is_there(path: Path) -> None:
    for include in load(path)["header"].get("includes", []):
        assert (TOP / include).is_file(), include


def test_the_kas_file_builds_the_image_with_this_layer_and_the_class() -> None:
    content = load(TOP / "kas" / "detbuild.yml")
    assert content["target"] == "core-image-minimal"
    assert 'INHERIT += "detbuild"' in content["local_conf_header"]["detbuild"]
    # Without a URL a repository is the one that holds the file, and without layers it is a layer itself.
    assert content["repos"]["meta-detbuild"] is None
    assert "meta" in content["repos"]["openembedded-core"]["layers"]


@pytest.mark.oe
@pytest.mark.parametrize("path", SETUP_FILES, ids=lambda path: path.name)
def test_a_setup_configuration_passes_bitbakes_schema(path: Path) -> None:
    directory = OE_ROOT / "bitbake" / "setup-schema"
    if not directory.is_dir():
        pytest.skip(f"no BitBake checkout with its schema in {OE_ROOT}")
    schema = json.loads((directory / "bitbake-setup.schema.json").read_text())
    layers = json.loads((directory / "layers.schema.json").read_text())
    # The one reference between the two files, taken in here so that nothing is looked up by address.
    assert schema["properties"]["sources"].pop("$ref") == "layers.schema.json#/properties/sources"
    content = json.loads(path.read_text())
    sources = content.pop("sources")
    jsonschema.Draft202012Validator(schema).validate(content)
    jsonschema.Draft202012Validator(layers).validate({"version": "1.0", "sources": sources})


@pytest.mark.bitbake
def test_bitbake_setup_reads_the_configurations(tmp_path: Path) -> None:
    listing = tmp_path / "list.json"
    (tmp_path / "configurations").symlink_to(TOP / "bitbake-setup")
    done = bitbake_setup("--setting", "default", "registry", str(tmp_path), "list", "--write-json", str(listing))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(json.loads(listing.read_text())) == {"detbuild-master", "detbuild-wrynose"}


@pytest.mark.oe
def test_bitbake_setup_makes_a_build_directory_that_inherits_the_class(tmp_path: Path) -> None:
    if not (OE_ROOT / "openembedded-core").is_dir():
        pytest.skip(f"no OE-Core checkout in {OE_ROOT}")
    local = [item for name in ("bitbake", "openembedded-core") for item in ("-L", name, str(OE_ROOT / name))]
    done = bitbake_setup(
        *("--setting", "default", "top-dir-prefix", str(tmp_path), "init", "--non-interactive", *local),
        *(str(SETUP_FILES[0]), "detbuild", "machine/qemux86-64"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    conf = tmp_path / "bitbake-builds" / "detbuild-master" / "build" / "conf"
    assert str(TOP) in os.path.realpath((conf / "bblayers.conf").read_text().split()[-2])
    assert "detbuild/inherit" in "".join(path.read_text() for path in conf.glob("*.conf"))
