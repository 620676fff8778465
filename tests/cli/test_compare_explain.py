"""`detbuild explain`, and the reports that `detbuild compare` writes, as people run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "compare"))
from making import make_deb, readable_by_all

from detbuild.audit import LEAKED, Audit, Read
from detbuild.cli.main import main


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detbuild", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "TZ": "UTC"}
    )


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("explain")
    for side, day in (("a", "21"), ("b", "22")):
        make_deb(top / side, "libz1", "zlib", f"built 2026-11-{day} 10:11:12\n")
        make_deb(top / side, "same", "same")
    outputs = ["--json", "out.json", "--markdown", "out.md", "--junit", "out.xml"]
    done = run("compare", "a", "b", *outputs, cwd=top)
    assert done.returncode == 1, done.stderr
    return top


@pytest.mark.parametrize("name", ["libz1", "zlib", "libz1_1.0-r0_all.deb", "libz*.deb"])
def test_a_story_has_whose_it_is_both_values_their_place_and_the_remedy(deploy: Path, name: str) -> None:
    done = run("explain", name, "--report", "out.json", cwd=deploy)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("libz1_1.0-r0_all.deb: different\n  package libz1, from recipe zlib\n")
    for words in ("data.tar.gz > ./usr/share/libz1", "A: 2026-11-21 10:11:12", "B: 2026-11-22 10:11:12", "remedy: "):
        assert words in done.stdout


def test_two_trees_tell_the_same_story(deploy: Path) -> None:
    report, trees = (run("explain", "libz1", *rest, cwd=deploy) for rest in (("--report", "out.json"), ("a", "b")))
    assert (report.stdout, report.returncode) == (trees.stdout, trees.returncode)


def test_what_does_not_differ_is_status_0(deploy: Path) -> None:
    done = run("explain", "same", "--report", "out.json", cwd=deploy)
    assert (done.returncode, done.stdout) == (0, "same: no difference is on record\n")


@pytest.mark.parametrize("name", ["same", "same_*.deb", "same_1.0-r0_all.deb"])
def test_what_is_there_and_the_same_is_status_0_and_what_is_nowhere_is_trouble(deploy: Path, name: str) -> None:
    done = run("explain", name, "a", "b", cwd=deploy)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}: no difference is on record\n", "")
    done = run("explain", f"not-{name}", "a", "b", cwd=deploy)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no not-{name} in either tree" in done.stderr


def test_an_artefact_can_be_named_as_it_is_in_b_and_by_odd_bytes(tmp_path: Path) -> None:
    for side, name in (("a", "image-20261121101112"), ("b", "image-20261122101112")):
        (tmp_path / side).mkdir()
        for file in (name, "odd\udcff"):
            (tmp_path / side / file).write_text(f"in {side}\n")
    for name, told in (("image-20261122101112", "image-20261121101112"), ("odd\udcff", "odd")):
        done = run("explain", name, "a", "b", cwd=tmp_path)
        assert (done.returncode, done.stdout.startswith(told)) == (1, True)


def test_what_could_not_be_compared_is_trouble_and_no_answer() -> None:
    with readable_by_all() as top:
        for side in "ab":
            (top / side / "closed").mkdir(parents=True)
            (top / side / "unreadable").write_text(side)
            (top / side / "open").write_text(side)
        (top / "a/unreadable").chmod(0)
        (top / "a/closed").chmod(0)
        # After the imports: the interpreter itself may lie where nobody else can read it.
        code = (
            "import os, sys; import detbuild.compare, detbuild.report.json; from detbuild.cli import main\n"
            "main.load('explain'); os.geteuid() or os.seteuid(65534); sys.exit(main.main(sys.argv[1:]))"
        )
        for name, stdout in (("unreadable", "unreadable: no difference is on record\n"), ("open", "open: different\n")):
            command = [sys.executable, "-c", code, "explain", name, "a", "b"]
            done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout.startswith(stdout)) == (2, True), done.stderr
            assert "a/unreadable: cannot be read: Permission denied" in done.stderr
            assert "a/closed: cannot list the directory: Permission denied" in done.stderr


def test_diffoscope_looks_at_nothing_but_what_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
        for number, name in enumerate(("one", "two", "three")):
            (tmp_path / side / name).write_bytes(bytes(40) + bytes([number + 1, ord(side)] * 3) + bytes(40))
    program = tmp_path / "fake"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" >> {tmp_path}/asked\nexit 2\n')
    program.chmod(0o755)
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: str(program))
    assert main(["explain", "two", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert capsys.readouterr().out.startswith("two: different\n  A: 86 bytes")
    assert (tmp_path / "asked").read_text() == "b/two\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "either one report nor two trees"),
        (("a",), "either one report nor two trees"),
        (("--report", "none.json"), "cannot read none.json"),
        (("--report", "out.xml"), "cannot read out.xml"),
        (("--report", "other.json"), "no report of this version"),
    ],
)
def test_what_cannot_be_explained_is_status_2_with_the_reason(
    deploy: Path, arguments: tuple[str, ...], reason: str
) -> None:
    (deploy / "other.json").write_text('{"format": "detbuild-compare", "version": 99}')
    done = run("explain", "libz1", *arguments, cwd=deploy)
    assert done.returncode == 2
    assert reason in done.stderr


def test_every_report_says_the_same_thing(deploy: Path) -> None:
    document = json.loads((deploy / "out.json").read_text())
    assert document["findings"][0]["cause"] == "timestamp"
    assert document["roots"] == [
        {"recipe": "zlib", "cause": "timestamp", "findings": ["libz1_1.0-r0_all.deb"], "followers": []}
    ]
    assert "| zlib | timestamp | 1 | 0 |" in (deploy / "out.md").read_text()
    (failure,) = ET.parse(deploy / "out.xml").getroot().iter("failure")
    assert failure.attrib["type"] == "timestamp"


MKVERSION = Read("/usr/bin/dash", "clock_gettime", LEAKED, "mkversion.sh", "mkversion.sh 1", ("make", "run.do_compile"))
LEAKS = Audit(
    "tracer",
    1,
    "observe",
    reads={MKVERSION: 2, MKVERSION._replace(arguments="mkversion.sh 2"): 1, Read("/bin/date", "time", LEAKED): 1},
)


def test_an_audit_record_names_who_leaked_and_who_started_it(deploy: Path, tmp_path: Path) -> None:
    place = tmp_path / "work/x86/zlib/1.0/temp"
    place.mkdir(parents=True)
    (place / "detbuild.do_compile.json").write_text(LEAKS.to_json())
    (place / "detbuild.do_install.json").write_text("not JSON")
    done = run("compare", "a", "b", "--audits", tmp_path / "work", cwd=deploy)
    chain = "mkversion.sh <- make <- run.do_compile"
    advice = "policy time fixes it"
    assert f"from recipe zlib, do_compile: {chain} read clock_gettime (leaked 3 times: {advice})" in done.stdout
    assert f"from recipe zlib, do_compile: date read time (leaked once: {advice})" in done.stdout
    assert "no audit can be read from it" in done.stderr


@pytest.mark.parametrize("tree", ["tmp/deploy", "tmp/deploy/deb"])
def test_the_records_that_a_build_collected_name_who_leaked_and_are_not_compared(
    deploy: Path, tmp_path: Path, tree: str
) -> None:
    for side in "ab":
        shutil.copytree(deploy / side, tmp_path / side / "tmp/deploy/deb")
    collection = tmp_path / "a/tmp/deploy/detbuild-audit"
    collection.mkdir()
    (collection / "zlib.do_compile.json").write_text(LEAKS.to_json())
    done = run("compare", tmp_path / "a" / tree, tmp_path / "b" / tree, cwd=tmp_path)
    assert done.returncode == 1
    assert "do_compile: mkversion.sh <- make <- run.do_compile read clock_gettime (leaked 3 times" in done.stdout
    assert "Missing: 0" in done.stdout


def test_the_first_finding_shows_before_the_last_is_done(deploy: Path, tmp_path: Path) -> None:
    for number in range(30):
        for side in "ab":
            make_deb(tmp_path / side, f"p{number:02d}", "p", f"{side} {number}\n")
    command = [sys.executable, "-m", "detbuild", "compare", "a", "b", "--shallow", "--jobs", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = process.stdout.readline()
        assert process.poll() is None
        rest = process.stdout.read()
    assert "p00_1.0-r0_all.deb" in first
    assert "p29_1.0-r0_all.deb" in rest
