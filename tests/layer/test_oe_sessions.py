"""Sessions, marks and restored epochs under bitbake itself: scheduler, worker, setscene and sstate."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testbed
from testbed import BuildDirectory, Failed

pytestmark = pytest.mark.oe

# The testbed's pseudo is the host's, and forgets who owns what came from sstate.
SMALL = 'INHIBIT_DEFAULT_DEPS = "1"\nS = "${UNPACKDIR}"\nERROR_QA:remove = "host-user-contaminated"\n'
INSTALLS = SMALL + (
    "do_compile() {\n\tdate > ${B}/${BPN}.h\n}\n"
    "do_install() {\n\tinstall -D -m 0644 ${B}/${BPN}.h ${D}${includedir}/${BPN}.h\n}\n"
)
WAITS = SMALL + "do_compile() {\n\twhile [ ! -e ${TOPDIR}/go ]; do sleep 0.1; done\n}\n"
OUTPUT = {"populate_sysroot", "package", "packagedata", "package_qa", "package_write_deb"}
FALLBACK = "1302044400"


def place(name: str) -> Path:
    testbed.builder()
    return testbed.PLACE / name


def meets(me: str, other: str, epoch: int) -> str:
    """A recipe whose compile reads the clock for as long as the other one's does, and not before."""
    return (
        f'SOURCE_DATE_EPOCH = "{epoch}"\n{SMALL}'
        f"do_compile() {{\n\ttouch ${{TOPDIR}}/{me}.up\n"
        f"\twhile [ ! -e ${{TOPDIR}}/{other}.up ]; do sleep 0.1; done\n"
        "\tfor i in $(seq 100); do date +%s; perl -e 'print time, \"\\n\"'; done > ${T}/seen\n"
        f"\ttouch ${{TOPDIR}}/{me}.down\n"
        f"\twhile [ ! -e ${{TOPDIR}}/{other}.down ]; do sleep 0.1; done\n}}\n"
    )


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_two_tasks_at_once_see_their_own_epochs_and_never_each_others() -> None:
    recipes = {"first_1.bb": meets("first", "second", 1111111111), "second_1.bb": meets("second", "first", 1222222222)}
    build = BuildDirectory(place("epochs"), recipes=recipes)
    build.bitbake("-c", "compile", "first", "second")
    for name, epoch in (("first", 1111111111), ("second", 1222222222)):
        seen = [int(line) for line in (build.logs(name) / "seen").read_text().split()]
        assert len(seen) == 200
        assert {value - epoch for value in seen} <= set(range(1000))


def test_a_task_that_joins_in_a_parsed_build_directory_runs_again_without_a_complaint() -> None:
    """BitBake keeps what it parsed, and finds a task's hash again in the process that runs it."""
    body = SMALL + "do_install() {\n\tdate +%s > ${T}/seen\n}\n"
    build = BuildDirectory(place("joins"), recipes={"joins_1.bb": 'SOURCE_DATE_EPOCH = "1111111111"\n' + body})
    rules = build.path / "conf/rules.json"
    seen = []
    for joins, row in (("", ""), ("do_install", ""), ("do_install", '{"names": "date", "clock": "real"}')):
        rules.write_text(f"[{row}]")
        build.configure(f'DETBUILD_RULES = "{rules}"\nDETBUILD_TASKS:append = " {joins}"\n')
        output = build.bitbake("-c", "install", "joins")
        assert "ERROR" not in output
        assert "basehash" not in output
        seen.append(int((build.logs("joins") / "seen").read_text()) == 1111111111)
    assert seen == [False, True, False]


@pytest.fixture(scope="module")
def killed() -> BuildDirectory:
    return BuildDirectory(place("killed"), recipes={"waits_1.bb": WAITS})


@pytest.mark.parametrize("victim", ["engine", "task"])
def test_a_killed_engine_or_task_fails_the_build_with_a_sentence(killed: BuildDirectory, victim: str) -> None:
    go = killed.path / "go"
    go.unlink(missing_ok=True)
    with killed.start("-c", "compile", "-f", "waits") as process:
        try:
            wait_for(lambda: open_sessions(killed, "waits-1"))
            mark = open_sessions(killed, "waits-1")[0]
            assert Path(f"/proc/{mark['engine_pid']}/comm").read_text().strip() == "detbuild-tracer"
            os.kill(mark["engine_pid"] if victim == "engine" else _task_process("waits:compile"), signal.SIGKILL)
            output = process.communicate(timeout=120)[0]
        finally:
            process.terminate()
            go.touch()  # a killed task leaves its shell behind
    assert process.returncode == 1, output
    sentence = next((line for line in output.splitlines() if line.startswith("ERROR: waits-1: do_compile")), output)
    assert "exit code 137" in sentence
    assert f"engine (tracer, process {mark['engine_pid']}) is gone too" in sentence
    assert "out of memory" in sentence
    assert not open_sessions(killed, "waits-1")


def open_sessions(build: BuildDirectory, recipe: str) -> list[dict[str, Any]]:
    """Their marks; a file with a suffix is still being written."""
    found = []
    for path in (build.state / "open").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += [] if path.suffix else [json.loads(path.read_text())]
    return [mark for mark in found if mark["recipe"] == recipe]


def _task_process(title: str) -> int:
    for comm in Path("/proc").glob("[0-9]*/comm"):
        if comm.read_text().strip() == title:
            return int(comm.parent.name)
    raise AssertionError(f"no process {title}")


@pytest.fixture(scope="module")
def degraded() -> tuple[BuildDirectory, str]:
    """``spoilt`` has no engine; ``user`` depends on it and ``whole`` does not. The second item is BitBake's output."""
    recipes = {
        "spoilt_1.bb": INSTALLS,
        "user_1.bb": INSTALLS + 'DEPENDS = "spoilt"\n',
        "whole_1.bb": INSTALLS,
    }
    build = BuildDirectory(place("degraded"), 'DETBUILD_ENGINE:pn-spoilt = "nosuch"', recipes)
    return build, build.bitbake("spoilt", "user", "whole")


def test_one_warning_counts_the_degraded_sessions_of_a_build(degraded: tuple[BuildDirectory, str]) -> None:
    warnings = [line for line in degraded[1].splitlines() if line.startswith("WARNING: ") and "degraded" in line]
    assert len(warnings) == 1
    assert "1 degraded session, of spoilt-1:" in warnings[0]
    assert "there is no engine 'nosuch'" in warnings[0]


def test_nothing_of_a_degraded_recipe_or_of_its_users_reaches_sstate(degraded: tuple[BuildDirectory, str]) -> None:
    objects = degraded[0].sstate()
    assert not objects & {f"{recipe}:{task}" for recipe in ("spoilt", "user") for task in OUTPUT}
    assert objects >= {f"whole:{task}" for task in OUTPUT}


def test_nothing_of_a_degraded_recipe_reaches_hash_equivalence(degraded: tuple[BuildDirectory, str]) -> None:
    with sqlite3.connect(degraded[0].path / "cache/hashserv.db") as database:
        reported = database.execute("select count(*) from outhashes_v2").fetchone()[0]
    assert reported == len(degraded[0].sstate())


def test_where_whole_sessions_are_required_the_task_fails_and_says_why(degraded: tuple[BuildDirectory, str]) -> None:
    build = degraded[0]
    build.configure('DETBUILD_ENGINE:pn-spoilt = "nosuch"\nDETBUILD_REQUIRE = "1"')
    with pytest.raises(Failed) as failure:
        build.bitbake("-c", "compile", "-f", "spoilt")
    output = str(failure.value)
    assert re.search(r'ERROR: spoilt-1.* do_compile: .*DETBUILD_REQUIRE = "1".*there is no engine', output)
    assert "1 task failed" in output
    assert "Traceback" not in output


def test_a_whole_session_lifts_the_ban_from_sstate(degraded: tuple[BuildDirectory, str]) -> None:
    build = degraded[0]
    build.configure("")
    build.bitbake("-c", "compile", "-f", "spoilt")
    output = build.bitbake("spoilt", "user")
    assert "degraded session" not in output
    assert build.sstate() >= {f"{recipe}:{task}" for recipe in ("spoilt", "user") for task in OUTPUT}


@pytest.fixture(scope="module")
def restored() -> BuildDirectory:
    """Built, then built again from sstate alone but for do_package_qa and do_packagedata, which run."""
    recipes = {
        "dated_1.bb": INSTALLS + 'SRC_URI = "file://__source-date-epoch.txt"\n',
        "left_1.bb": INSTALLS + 'SRC_URI = "file://old/"\nS = "${UNPACKDIR}/old"\nDETBUILD_ENABLED = "0"\n',
        "files/__source-date-epoch.txt": "1234567890\n",
        "files/old/source.c": "",
        "classes/tell.bbclass": testbed.TELL,
    }
    build = BuildDirectory(place("restored"), 'INHERIT += "tell"', recipes)
    os.utime(build.path / "meta-cases/files/old/source.c", (1234567890, 1234567890))
    build.bitbake("dated", "left")
    for path in (build.path / "sstate-cache").rglob("sstate:*"):
        if path.name.split(":")[-1].partition("_")[2].startswith(("package_qa", "packagedata", "package_write_deb")):
            path.unlink()
    shutil.rmtree(build.path / "tmp")
    # On its own: otherwise do_package_write_deb, which asks for the epoch itself, may happen to be earlier.
    build.bitbake("-c", "packagedata", "dated", "left")
    build.bitbake("dated", "left")
    return build


@pytest.mark.parametrize("task", ["do_package_qa", "do_packagedata", "do_package_write_deb"])
def test_a_task_behind_restored_ones_has_the_recipes_epoch(restored: BuildDirectory, task: str) -> None:
    assert (restored.path / f"tmp/told/dated.{task}").read_text() == "1234567890"
    assert not (restored.path / "tmp/told/dated.do_unpack").exists()


def test_in_a_recipe_that_left_detbuild_it_has_the_fallback(restored: BuildDirectory) -> None:
    assert (restored.path / "tmp/told/left.do_package_write_deb").read_text() == "1234567890"
    assert (restored.path / "tmp/told/left.do_packagedata").read_text() == FALLBACK


def test_the_copy_of_a_restored_epoch_is_there(restored: BuildDirectory) -> None:
    assert (restored.logs("dated").parent / "__source-date-epoch.txt").read_text().strip() == "1234567890"


def test_rm_work_keeps_the_epoch_for_tasks_that_run_later() -> None:
    recipes = {
        "dated_1.bb": INSTALLS + 'SRC_URI = "file://__source-date-epoch.txt"\n',
        "files/__source-date-epoch.txt": "1234567890\n",
        "classes/tell.bbclass": testbed.TELL,
    }
    build = BuildDirectory(place("rm-work"), 'INHERIT += "tell rm_work"', recipes)
    build.bitbake("dated")
    work = build.logs("dated").parent
    assert not (work / "image").exists()
    assert (work / "__source-date-epoch.txt").read_text().strip() == "1234567890"
    build.bitbake("-c", "package_qa", "-f", "dated")
    assert (build.path / "tmp/told/dated.do_package_qa").read_text() == "1234567890"


def test_a_new_srcrev_in_an_old_tmpdir_takes_the_new_commits_date() -> None:
    recipe = (
        SMALL.replace('S = "${UNPACKDIR}"\n', "")
        + 'SRC_URI = "git://${TOPDIR}/upstream;protocol=file;branch=main"\n'
        + "do_compile() {\n\tdate +%s > ${T}/seen\n}\n"
    )
    build = BuildDirectory(place("srcrev"), recipes={"moving_1.bb": recipe})
    for epoch in (1000000007, 1100000009):
        build.configure(f'SRCREV:pn-moving = "{_commit(build.path / "upstream", epoch)}"')
        testbed.give(build.path / "upstream")
        build.bitbake("-c", "compile", "moving")
        assert int((build.logs("moving") / "seen").read_text()) == epoch
        assert (build.logs("moving").parent / "__source-date-epoch.txt").read_text().strip() == str(epoch)


def _commit(repository: Path, epoch: int) -> str:
    """An empty commit of that date, in seconds; its SHA."""
    repository.mkdir(exist_ok=True)
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": f"{epoch} +0000" for role in ("AUTHOR", "COMMITTER")}

    def git(*arguments: str) -> str:
        command = ["git", "-c", f"safe.directory={repository}", "-C", str(repository), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **who, **when}
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "change")
    return git("rev-parse", "HEAD")


def test_devtool_modify_keeps_the_epoch_although_its_own_commits_are_of_today() -> None:
    build = BuildDirectory(place("devtool"))

    def epoch() -> int:
        build.bitbake("-c", "compile", "-f", "hello")
        return int(json.loads((build.logs("hello") / "detbuild.do_compile.json").read_text())["epoch"])

    before = epoch()
    build.run("devtool modify hello")
    assert epoch() == before
    # Without what the earlier builds left in TMPDIR, too.
    shutil.rmtree(build.path / "tmp")
    assert epoch() == before
