"""What tests claim of policy strict under the tracer, claimed of the eBPF engine: nothing hangs, and programs build.

The tests' own modules are imported late: pytest takes an emulated machine seconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from claims_as_a_user import session
from hand import EPOCH, PLACE, State

from detbuild import Session
from detbuild.audit import Audit
from detbuild.engine.filter import FIRST_TOLD

SLOWER = 15  # than what the tests expect of a machine; emulated on two processors
SESSION = ["/usr/bin/python3", "-m", "detbuild", "run", "--engine", "ebpf", "--epoch", str(EPOCH)]
SESSION += ["--policy", "strict", "--"]


def a_random_device_has_the_readers_own_bytes(state: State) -> None:
    script = "od -An -N16 -tx8 /dev/urandom; od -An -N7 -tx1 < /dev/random; dd if=/dev/urandom bs=3000017 count=1 | sum"
    first, second = (session(["sh", "-c", script], policy="strict")[0] for _ in range(2))
    assert first == second
    assert len(first.split()) == 2 + 7 + 2, first


def a_read_of_a_random_device_that_is_too_large_is_a_gap(state: State) -> None:
    script = "head -c 4000000 /dev/urandom; dd if=/dev/urandom bs=4000000 count=1"
    with Session(EPOCH, "strict", "ebpf") as within:
        within.run(["sh", "-c", script], stdout=subprocess.DEVNULL)
    assert [(gap.kind, count) for gap, count in within.audit.gaps.items()] == [("left real", 1)], within.audit.gaps


def shells_have_numbers_of_their_own_and_can_be_reached_by_them(state: State) -> None:
    script = "trap 'echo caught' USR1; kill -USR1 $$; sh -c 'kill -USR1 $PPID; echo $$ $PPID'; echo $$"
    first, second = (session(["sh", "-c", script], policy="strict")[0] for _ in range(2))
    assert first == second
    assert first.count("caught") == 2, first
    assert [int(word) >= FIRST_TOLD for word in first.split() if word != "caught"] == [True] * 3, first
    from test_pids import AGENT

    command = ["sh", "-c", '/usr/bin/python3 -I -S -c "$0" </dev/null | sort; :', AGENT]
    number, parents, knows = session(command, policy="strict")[0].split()
    assert (number, knows) == (parents, "True"), (number, parents, knows)
    assert int(number) >= FIRST_TOLD, number


def what_waits_ends_in_time_under_strict(state: State) -> None:
    _nothing_hangs(lambda test: "short_processes" not in test)


def short_processes_end_under_strict(state: State) -> None:
    _nothing_hangs(lambda test: "short_processes" in test)


def _nothing_hangs(chosen: Callable[[str], bool]) -> None:
    """All of the suite that is chosen by name."""
    os.environ |= {"DETBUILD_TESTS_SLOWER": str(SLOWER), "DETBUILD_TESTS_PROGRAMS": str(PLACE / "programs")}
    import test_no_hang

    tests = [value for name, value in vars(test_no_hang).items() if name.startswith("test_") and chosen(name)]
    assert tests
    problems = []
    for test in tests:
        for arguments in _arguments(test):
            try:
                test("ebpf", "strict", **arguments)
            except (AssertionError, subprocess.SubprocessError) as error:
                line = error.__traceback__.tb_next.tb_lineno  # type: ignore[union-attr]
                problems.append(f"{test.__name__} {arguments}, line {line}: {error!r}")
    assert not problems, problems


def _arguments(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """What a test is parametrized with by itself."""
    axes = [[(mark.args[0], value) for value in mark.args[1]] for mark in getattr(test, "pytestmark", ())]
    yield from map(dict, product(*axes))


def a_wheel_with_a_module_in_c_is_the_same_in_two_places_under_strict(state: State) -> None:
    _in_two_places("markupsafe")


def a_perl_module_in_c_is_the_same_in_two_places_under_strict(state: State) -> None:
    _in_two_places("libclone-perl")


def _in_two_places(package: str) -> None:
    from places import PLACES, differing
    from programs import MODULES
    from workshop import Workshop, good

    [program] = [each for each in MODULES if each.package == package]
    workshops = [Workshop(program, PLACE / package / place, SESSION) for place in PLACES]
    builds = [workshop.make() for workshop in workshops]
    different = differing(*builds)
    assert not different, different
    results, outside = workshops[1].check(), workshops[1].check(session=[])
    assert results == outside, (results - outside, outside - results)
    assert good(results) >= program.passed, results
    record = sum((audit for build in builds for audit in build.audits), Audit())
    assert not record.survivors, record.survivors
    assert not record.leaks, record.leaks
    assert not record.gaps, record.gaps
