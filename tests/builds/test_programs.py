"""Real programs from upstream's sources: they build in a session, their test suites pass as they do without."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from programs import PROGRAMS
from workshop import SECONDS, Build, Built, Program, Workshop, build_beside, good, need_engine

from detbuild.audit import FIXED, PASSED, Audit

EPOCH = 1_300_000_000  # older than the sources: every file of the build lies in the session's future


@pytest.fixture(autouse=True, scope="module")
def _an_engine() -> None:
    need_engine()


@pytest.fixture(scope="module", params=PROGRAMS, ids=str)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, detbuild_run: list[str]) -> Built:
    program: Program = request.param
    top = tmp_path_factory.mktemp(program.package)

    def in_session() -> tuple[Build, Build]:
        workshop = Workshop(program, top / "session", detbuild_run)
        return workshop.build(check=False), workshop.build(check=True)

    return build_beside(program, top, in_session)


def test_a_test_suite_passes_as_it_does_without_a_session(built: Built) -> None:
    assert built.second.results == built.without.results
    assert good(built.without.results) >= built.program.passed


def test_a_program_built_at_two_times_has_the_same_bytes(built: Built) -> None:
    assert built.first.installed == built.second.installed


def test_a_build_gets_the_same_files_as_without_a_session(built: Built) -> None:
    assert built.first.installed.keys() == built.without.installed.keys()


def test_a_second_build_does_what_it_does_without_a_session(built: Built) -> None:
    assert built.second.again is not None
    assert built.second.again == built.without.again
    assert built.program.idle in "\n".join(built.second.again.said)
    if built.program.idle:
        assert not built.second.again.wrote


def test_without_a_session_what_one_built_is_up_to_date(built: Built) -> None:
    assert built.second.again_outside == built.without.again_outside


def test_no_build_log_speaks_of_clocks_or_the_future(built: Built) -> None:
    assert built.second.log
    assert not re.findall(r".*(?:[Cc]lock skew|in the future|from the future|appears to fail).*", built.second.log)
    if "autoreconf" in built.program.needs:
        assert "checking whether build environment is sane... yes" in built.second.log


def test_a_whole_build_leaves_no_gap_in_the_audit(built: Built) -> None:
    audit = sum(built.second.audits, Audit())
    assert not audit.gaps
    assert not audit.survivors
    assert not audit.leaks
    assert any(read.outcome in (FIXED, PASSED) for read in audit.reads)


DATED = """\
#include <stdio.h>
int main(void) { puts(__DATE__ " " __TIME__); return 0; }
"""

# Neither compiles before the other one is there, so that both sessions are alive at once.
MAKEFILE = """\
PROGRAMS = one two three four five six
all: $(PROGRAMS)
$(PROGRAMS): dated.c ready
\t$(CC) -o $@ dated.c
ready:
\ttouch ready
\ttimeout 60 sh -c 'until [ -e ../$(OTHER)/ready ]; do sleep 0.05; done'
"""


def test_two_sessions_at_once_embed_their_own_epochs(tmp_path: Path, detbuild_run: list[str]) -> None:
    epochs = {"left": EPOCH, "right": EPOCH + 86_400 * 1000 + 3_661}
    builds = []
    for (name, epoch), other in zip(epochs.items(), reversed(epochs), strict=True):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "dated.c").write_text(DATED)
        (tree / "Makefile").write_text(MAKEFILE)
        command = [str(epoch) if word == str(EPOCH) else word for word in detbuild_run]
        environment = {**os.environ, "TZ": "UTC0"}
        environment.pop("SOURCE_DATE_EPOCH", None)
        command += ["make", "-j2", f"OTHER={other}"]
        builds.append(subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL))
    assert [build.wait(SECONDS) for build in builds] == [0, 0]
    for name, epoch in epochs.items():
        moment = time.gmtime(epoch)
        expected = f"{time.strftime('%b', moment)} {moment.tm_mday:2} {time.strftime('%Y %H:%M:%S', moment)}\n"
        for program in ("one", "two", "three", "four", "five", "six"):
            shown = subprocess.run([tmp_path / name / program], check=True, capture_output=True, text=True).stdout
            assert shown == expected
