"""`detbuild audit`, as people run it in and beside a build directory."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild import audits
from detbuild.audit import LEAKED, TASK, Audit, Gap, Read

LEAK = Read("/bin/dash", "uname", LEAKED, "config.status", "./config.status", ("sh",))
OBSERVED = Audit("tracer", 1, "observe", reads={LEAK: 1}, observed=True)
OWN = Read("/usr/bin/python3.11", "clock_gettime", LEAKED, TASK)
LINE = (
    "gzip do_configure: config.status <- sh read uname (leaked: add do_configure to DETBUILD_TASKS, with policy strict)"
)


def run(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BUILDDIR"}
    return subprocess.run(
        [sys.executable, "-m", "detbuild", "audit", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env={**environment, **variables},
    )  # fmt: skip


@pytest.fixture
def build(tmp_path: Path) -> Path:
    collection = tmp_path / "tmp/deploy/detbuild-audit"
    audits.keep(audits.place(collection, "gzip", "do_configure"), OBSERVED)
    audits.keep(audits.place(collection, "zlib", "do_compile"), Audit("tracer", 1, "time"))
    gaps = Audit("tracer", 1, "time", gaps={Gap("program out of reach", "su \x1b[31m"): 2})
    audits.keep(audits.place(collection, "sudo", "do_compile", "other"), gaps)
    return tmp_path


def test_the_current_builds_recipes_are_told_the_worst_first(build: Path) -> None:
    done = run(cwd=build)
    assert done.stdout.splitlines() == [
        "mc:other:sudo do_compile: program out of reach: su \\x1b[31m "
        "(gap 2 times: see `detbuild doctor`, and run it again)",
        LINE,
        "2 of 3 recipes depend on the outside world: 2 gaps, 1 leak in 3 records",
    ]
    assert (done.returncode, done.stderr) == (1, "")


def test_what_bitbake_itself_read_is_one_line_at_the_end_for_all_recipes(build: Path) -> None:
    collection = build / "tmp/deploy/detbuild-audit"
    before = run(cwd=build)
    for number in range(7):
        audits.keep(audits.place(collection, f"r{number}", "do_compile"), Audit("tracer", 1, "time", reads={OWN: 11}))
    done = run(cwd=build)
    *findings, own, summary = done.stdout.splitlines()
    assert findings == before.stdout.splitlines()[:-1]
    assert own.startswith("BitBake's own process read clock_gettime in 7 of 10 recipes, 77 times: it logs")
    assert summary == "2 of 10 recipes depend on the outside world: 2 gaps, 1 leak in 10 records"
    alone = run("r3", cwd=build)
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (0, "no leak and no gap in 1 record")
    assert "r3 do_compile: the task read clock_gettime (own 11 times" in run("r3", "--all", cwd=build).stdout


def test_the_build_directory_is_bitbakes_own_where_that_is_known(build: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert run(cwd=tmp_path / "elsewhere", BUILDDIR=str(build)).stdout == run(cwd=build).stdout


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("gzip", 1, LINE),
        ("gz*", 1, LINE),
        ("zlib", 0, "no leak and no gap in 1 record"),
        ("mc:other:sudo", 1, "program out of reach"),
        ("sudo", 1, "1 of 1 recipes depend on the outside world: 2 gaps, 0 leaks in 1 record"),
        ("tmp", 1, LINE),
        ("tmp/deploy/detbuild-audit/mc/other/sudo.do_compile.json", 1, "mc:other:sudo do_compile: program"),
    ],
)
def test_a_recipe_a_directory_or_a_file_can_be_asked_for(build: Path, what: str, code: int, text: str) -> None:
    done = run(what, cwd=build)
    assert (done.returncode, done.stderr) == (code, "")
    assert text in done.stdout


def test_a_leak_in_another_tmpdir_of_the_build_is_told(build: Path) -> None:
    audits.keep(audits.place(build / "tmp-other/deploy/detbuild-audit", "xz", "do_configure", "other"), OBSERVED)
    done = run("xz", cwd=build)
    assert done.returncode == 1
    assert LINE.replace("gzip", "mc:other:xz") in done.stdout


def test_a_record_of_detbuild_run_is_shown_without_a_recipe(tmp_path: Path) -> None:
    command = ["--audit", "audit.json", "--", "sh", "-c", "date; :"]
    subprocess.run(
        [sys.executable, "-m", "detbuild", "run", "--engine", "tracer", "--epoch", "1300000000", *command],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    done = run("audit.json", "--all", cwd=tmp_path)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(("date <- sh read ", "date <- dash read ", "date <- bash read "))
    assert "(fixed" in first
    assert (done.returncode, last) == (0, "no leak and no gap in 1 record")


def test_json_has_every_finding_with_its_arguments(build: Path) -> None:
    document = json.loads(run("--json", cwd=build).stdout)
    assert (document["format"], document["version"]) == ("detbuild-exposure", 1)
    assert document["findings"][1] == {
        "recipe": "gzip",
        "task": "do_configure",
        "kind": "leaked",
        "program": "/bin/dash",
        "source": "uname",
        "name": "config.status",
        "arguments": "./config.status",
        "parents": ["sh"],
        "count": 1,
        "remedy": "add do_configure to DETBUILD_TASKS, with policy strict",
    }


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("gzipp", "no record of a recipe gzipp is in /"),
        ("gzipp", "Did you mean gzip"),
        ("nosuch", "See DETBUILD_TASKS"),
        ("no/such", "there is no record no/such"),
        ("empty", "there are no records in"),
    ],
)
def test_what_is_not_there_is_status_2_with_what_to_do(build: Path, what: str, reason: str) -> None:
    (build / "empty").mkdir()
    done = run(what, cwd=build)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_outside_a_build_directory_it_says_where_to_go(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    assert "Go to the build directory, or name the directory that DETBUILD_AUDIT_DIR is set to" in done.stderr


def test_a_record_that_cannot_be_read_is_told_and_the_others_are_shown(build: Path) -> None:
    old = build / "tmp/deploy/detbuild-audit/old.do_compile.json"
    old.write_text('{"format": "detbuild-audit", "version": 1}')
    done = run(cwd=build)
    assert done.returncode == 2
    assert "old.do_compile.json: this is not an audit of version 2" in done.stderr
    assert LINE in done.stdout


def test_a_terminal_gets_the_same_words_in_colour(build: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "detbuild", "audit", "gzip"]
    environment = {**os.environ, "TERM": "xterm-256color", "BUILDDIR": str(build)}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, stdout=theirs, env=environment, cwd=build, check=False, timeout=120)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 1
    assert "\x1b[" in said
    assert "config.status <- sh read uname" in said
