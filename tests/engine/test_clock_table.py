"""Every claim of the clock table, under every engine, as this user and as an ordinary one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import clock_cases
import clock_programs
import pytest

from detbuild.engine import select
from detbuild.errors import EngineUnavailable

ENGINES = [name for name in select.NAMES if name != select.AUTO]
USERS = ["the caller", "nobody"]

Table = Callable[[str, str], dict[str, str]]


@pytest.fixture(scope="session")
def programs(public: Path) -> Path:
    directory = public / "programs"
    directory.mkdir()
    clock_programs.build(directory)
    return directory


@pytest.fixture(scope="session")
def table(programs: Path, public: Path, request: pytest.FixtureRequest) -> Table:
    """(engine, user) -> name -> problem; each pair is run once."""
    known: dict[tuple[str, str], dict[str, str]] = {}

    def as_nobody(engine: str) -> dict[str, str]:
        run: Callable[..., subprocess.CompletedProcess[str]] = request.getfixturevalue("as_nobody")
        script = shutil.copy(clock_cases.__file__, public)
        result = run(script, str(programs), engine)
        assert not result.stderr
        return {row["name"]: row["problem"] for row in map(json.loads, result.stdout.splitlines())}

    def get(engine: str, user: str) -> dict[str, str]:
        if (engine, user) not in known:
            try:
                select.choose(engine)
            except EngineUnavailable as error:
                pytest.skip(f"the engine {engine} does not work here: {error}")
            known[engine, user] = (
                as_nobody(engine) if user == "nobody" else clock_cases.run(clock_cases.CASES, programs, engine)
            )
        return known[engine, user]

    return get


@pytest.mark.parametrize("case", clock_cases.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_session(engine: str, user: str, case: clock_cases.Case, table: Table) -> None:
    if case.missing():
        pytest.skip(case.missing())
    assert not table(engine, user)[case.name]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_table_leaves_no_gap(engine: str, user: str, table: Table) -> None:
    assert not table(engine, user)[""]


def test_the_names_of_the_table_are_unique() -> None:
    names = [case.name for case in clock_cases.CASES]
    assert len(set(names)) == len(names)


def test_a_wrong_answer_is_a_problem() -> None:
    case = clock_cases.Case("", (), clock_cases.FIXED)
    assert clock_cases.Outcome(f"{case.epoch + 1} 0\n", "", {}, {}).problem(case)
    assert clock_cases.Outcome(f"{case.epoch} 0\n", "trouble", {}, {}).problem(case)
    assert not clock_cases.Outcome(f"{case.epoch} 5\n", "", {}, {}).problem(case)
