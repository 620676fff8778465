"""Two builds of the testbed, in two directories of different length and at two times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testbed

pytestmark = pytest.mark.oe

# What no clock explains: names and numbers of the host, the order of a race, and the build's path.
BEYOND_TIME = {"tb-hostinfo", "tb-parallel", "tb-buildpath", "gzip"}
CLOCK = {"tb-shelldate", "tb-datetime", "tb-archives"}


def compare(a: Path, b: Path, report: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "detbuild", "compare", str(a), str(b), "--json", str(report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def recipes(result: dict[str, Any]) -> list[str]:
    return sorted(finding["recipe"] for finding in result["findings"])


@pytest.fixture(scope="module")
def with_detbuild(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    a, b = testbed.with_detbuild()
    return compare(a.packages, b.packages, tmp_path_factory.mktemp("with") / "report.json")


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    a, b = testbed.packages_without()
    return compare(a, b, tmp_path_factory.mktemp("without") / "report.json")


def test_without_the_class_clocks_and_more_make_packages_differ(without: dict[str, Any]) -> None:
    assert (without["total"], without["missing"]) == (83, 0)
    assert set(recipes(without)) == BEYOND_TIME | CLOCK


def test_what_read_a_clock_is_the_same_and_the_rest_is_named_with_its_recipe(with_detbuild: dict[str, Any]) -> None:
    assert recipes(with_detbuild) == sorted(BEYOND_TIME)
    assert all(finding["kind"] == "different" for finding in with_detbuild["findings"])


def test_nothing_that_was_the_same_differs_now(with_detbuild: dict[str, Any], without: dict[str, Any]) -> None:
    before = {finding["artefact"] for finding in without["findings"]}
    assert {finding["artefact"] for finding in with_detbuild["findings"]} <= before
    assert (with_detbuild["total"], with_detbuild["missing"]) == (without["total"], 0)


def test_a_recipe_of_local_files_alone_is_built_at_the_fallback_and_an_archive_at_its_youngest_file() -> None:
    build = testbed.with_detbuild()[0]
    epochs = {
        name: json.loads((build.logs(name) / "detbuild.do_compile.json").read_text())["epoch"]
        for name in ("tb-datetime", "hello", "gzip")
    }
    assert epochs["tb-datetime"] == 1302044400
    assert epochs["hello"] < 1416139242 + 86400 < epochs["gzip"]


def test_a_clock_read_by_a_program_is_named_and_counted_as_fixed() -> None:
    record = json.loads((testbed.with_detbuild()[0].logs("tb-datetime") / "detbuild.do_compile.json").read_text())
    fixed = {Path(read["program"]).name: read["count"] for read in record["reads"] if read["outcome"] == "fixed"}
    assert fixed["cc1"] >= 1
    assert record["gaps"] == []


def test_the_copy_of_the_epoch_is_there_in_every_recipe_that_unpacks() -> None:
    work = testbed.with_detbuild()[0].path / "tmp/work"
    stamps = sorted(work.glob("*/*/*/source-date-epoch/__source_date_epoch.txt"))
    assert len(stamps) == 13
    for stamp in stamps:
        assert (stamp.parents[1] / "__source-date-epoch.txt").read_text().strip() == stamp.read_text().strip()
