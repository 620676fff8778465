"""The quickstart's numbers come from real builds and a real comparison, and its exit code from the numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
STAMPED = {"stamp-c", "stamp-perl", "stamp-python", "stamp-shell", "stamp-static"}

pytestmark = pytest.mark.bitbake


def quickstart(
    directory: Path, *, code: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run examples/quickstart.py; ``code`` runs first, in the same interpreter."""
    program = f"import sys; sys.argv[1:] = [{str(directory)!r}]; import quickstart; {code}\nsys.exit(quickstart.main())"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=TOP / "examples",
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def debs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("tmp/deploy/deb/*.deb")}


def content(deb: Path, member: str) -> str:
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(["tar", "xO", member], input=tar, stdout=subprocess.PIPE, check=True).stdout.decode(
        errors="replace"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    directory = tmp_path_factory.mktemp("quickstart")
    return directory, quickstart(directory)


def test_five_artefacts_differ_without_and_none_with(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    directory, done = run
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ *without detbuild  Different: 5$", done.stdout, re.M), done.stdout
    assert re.search(r"^ *with detbuild  Different: 0$", done.stdout, re.M), done.stdout
    # The same, counted by this test and not by detbuild-compare.
    for mode, expected in (("without", STAMPED), ("with", set[str]())):
        a, b = (debs(path) for path in sorted((directory / mode).iterdir()))
        assert len(a) == len(b) == 6
        assert {name.partition("_")[0] for name in a if a[name] != b[name]} == expected


def test_every_difference_is_named_with_its_recipe(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    for recipe in STAMPED:
        assert f"(package {recipe}, recipe {recipe})" in run[1].stdout


def test_it_ends_with_the_path_of_a_report_that_is_there(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    report = Path(run[1].stdout.splitlines()[-1].rpartition(": ")[2])
    assert "stamp-static" in report.read_text()


def test_the_two_builds_of_a_pair_have_directories_of_different_length(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    for mode in ("without", "with"):
        assert len({len(path.name) for path in (run[0] / mode).iterdir()}) == 2


@pytest.mark.parametrize(
    ("recipe", "member", "epoch"),
    [
        ("stamp-c", "./usr/bin/stamp-c", "built on Jan  2 2020 at 03:04:05"),
        ("stamp-static", "./usr/share/stamp-static/banner.txt", "generated at second 1609556645"),
        ("stamp-perl", "./usr/include/table.h", "Generated on Mon Jan  3 03:04:05 2022."),
        ("stamp-shell", "./etc/stamp-release", "BUILD_ID=20230102030405"),
        ("stamp-python", "./usr/share/stamp-python/build_info.py", "2011-04-05T23:00:00+00:00"),
    ],
)
def test_with_detbuild_each_program_saw_its_own_recipes_epoch(
    run: tuple[Path, subprocess.CompletedProcess[str]], recipe: str, member: str, epoch: str
) -> None:
    for place in (run[0] / "with").iterdir():
        assert epoch in content(place / f"tmp/deploy/deb/{recipe}_1.0-r0_all.deb", member)


def test_the_epochs_come_from_four_kinds_of_source_and_are_told(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    told = dict(re.findall(r"^  epoch of (\S+) +[\d-]+ [\d:]+  (.+)$", run[1].stdout, re.M))
    assert told.pop("stamp-shell") == "file (__source-date-epoch.txt)"
    assert told.pop("stamp-python") == "fallback"
    assert told.pop("stamp-perl") == "youngest (generate.pl)"
    assert told == {"stamp-c": "known (NEWS)", "stamp-static": "known (ChangeLog)", "good": "known (NEWS)"}


def test_the_control_was_the_same_already(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    contents = {debs(place)["good_1.0-r0_all.deb"] for place in (run[0] / "without").iterdir()}
    assert len(contents) == 1


def test_a_difference_that_stays_makes_the_exit_code_one_and_says_what_to_do(tmp_path: Path) -> None:
    # Without INHERIT the second pair is as bad as the first, and the quickstart has to admit it.
    done = quickstart(tmp_path, code="quickstart.CONFIGURATIONS['with'] = 'BBMASK = \"/recipes-devtools/\"'")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^ *with detbuild  Different: 5$", done.stdout, re.M)
    assert "doctor" in done.stdout.splitlines()[-1]


def test_without_an_engine_it_tells_of_degraded_sessions_and_counts_what_differs(tmp_path: Path) -> None:
    done = quickstart(tmp_path, code="quickstart.CONFIGURATIONS['with'] += '\\nDETBUILD_ENGINE = \"none\"'")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "6 degraded sessions" in done.stdout
    assert re.search(r"^ *with detbuild  Different: 5$", done.stdout, re.M)


def test_a_task_that_fails_is_trouble_and_its_log_is_shown(tmp_path: Path) -> None:
    done = quickstart(
        tmp_path, code="quickstart.CONFIGURATIONS['without'] = 'do_install:pn-good = \"echo o-o; false\"'"
    )
    assert done.returncode == 2
    assert "good:do_install failed with exit code 1" in done.stderr
    assert "o-o" in done.stderr


def test_a_directory_with_somebody_elses_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "thesis.txt").write_text("mine")
    done = quickstart(tmp_path)
    assert done.returncode == 2
    assert "not from a quickstart" in done.stderr
    assert (tmp_path / "with" / "thesis.txt").read_text() == "mine"


def test_yocto_check_layer_finds_no_second_layer_in_a_clone(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    # It takes every directory that holds a directory conf for a layer.
    assert list((TOP / "examples").rglob("conf")) == []
    assert list(run[0].rglob("conf")) == []


def test_the_script_says_where_the_output_goes() -> None:
    assert "build/" in (TOP / ".gitignore").read_text().split()
    text = (TOP / "scripts" / "quickstart").read_text()
    assert "scripts/setup" in text
    assert os.access(TOP / "scripts" / "quickstart", os.X_OK)


def test_a_recipe_that_leaves_detbuild_is_as_it_was_without(tmp_path: Path) -> None:
    left = "quickstart.CONFIGURATIONS['with'] += '\\nDETBUILD_ENABLED:pn-stamp-c = \"0\"'"
    done = quickstart(tmp_path, code=left)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^ *with detbuild  Different: 1$", done.stdout, re.M), done.stdout
