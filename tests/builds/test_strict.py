"""Real programs under policy strict: the same but for a path in two directories, and their test suites pass."""

from __future__ import annotations

import pytest
from places import PLACES, differing
from programs import MODULES, PROGRAMS
from workshop import Build, Built, Program, Workshop, build_beside, good, need_engine

from detbuild.audit import Audit

# The others take minutes, and pass too, but that cargo and go name things by a digest of their path.
CHOSEN = [program for program in PROGRAMS if program.package == "lua5.4"]


@pytest.fixture(autouse=True, scope="module")
def _an_engine() -> None:
    need_engine("strict")


@pytest.fixture(scope="module", params=[*CHOSEN, *MODULES], ids=str)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, detbuild_run: list[str]) -> Built:
    """The sessions are of policy strict, in two directories."""
    program: Program = request.param
    top = tmp_path_factory.mktemp(program.package)
    session = [*detbuild_run[:-1], "--policy", "strict", "--"]

    def in_sessions() -> tuple[Build, Build]:
        first = Workshop(program, top / PLACES[0], session).build(check=False)
        return first, Workshop(program, top / PLACES[1], session).build(check=True)

    return build_beside(program, top, in_sessions)


def test_a_test_suite_passes_as_it_does_without_a_session(built: Built) -> None:
    assert built.second.results == built.without.results
    assert good(built.without.results) >= built.program.passed


def test_a_program_built_in_two_directories_is_the_same_but_for_its_path(built: Built) -> None:
    assert built.first.installed.keys() == built.second.installed.keys() == built.without.installed.keys()
    assert not differing(built.first, built.second)


def test_a_whole_build_leaves_no_gap_in_the_audit(built: Built) -> None:
    audit = sum(built.second.audits, Audit())
    assert not audit.gaps
    assert not audit.survivors
    assert not audit.leaks
