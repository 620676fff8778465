"""Every claim of the strict table, natively, under every engine that holds the policy."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import strict_cases
from strict_cases import CASES, CONSTANT, STREAM, Case

from detbuild import Session, policy
from detbuild.audit import Audit
from detbuild.calls import Treatment
from detbuild.engine import select
from detbuild.errors import EngineUnavailable

ENGINES = [name for name in select.NAMES if name != select.AUTO]
Runs = list[dict[str, str]]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    strict_cases.build(directory)
    return directory


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two directories with the same files, made in different orders; on two file systems where the machine has two."""
    first = tmp_path_factory.mktemp("first") / "here"
    memory = Path("/dev/shm")
    other = Path(tempfile.mkdtemp(prefix="detbuild-", dir=memory if memory.is_dir() else None))
    strict_cases.furnish(first, 1)
    strict_cases.furnish(other / "here", 2)
    yield [first, other / "here"]
    shutil.rmtree(other)


@pytest.fixture(scope="module", params=ENGINES)
def audited(request: pytest.FixtureRequest, programs: Path, places: list[Path]) -> tuple[Runs, list[Audit]]:
    """Two runs of the table in two directories at two times, and one of another seed."""
    try:
        select.choose(request.param, "strict")
    except EngineUnavailable as error:
        pytest.skip(f"the engine {request.param} does not work here: {error}")
    results = []
    for place, seed in ((places[0], ""), (places[1], ""), (places[0], "another")):
        results.append(strict_cases.run(CASES, programs, request.param, place, seed=seed))
        time.sleep(1.1)
    return [printed for printed, _ in results], [audit for _, audit in results]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_runs_print_the_same(case: Case, audited: tuple[Runs, list[Audit]]) -> None:
    if case.missing():
        pytest.skip(case.missing())
    first, second, other = (run[case.name] for run in audited[0])
    assert first == second
    assert (first != other) == (case.kind == STREAM)


@pytest.fixture(scope="module")
def unfixed(programs: Path, places: list[Path]) -> Runs:
    """Two runs of the table under policy time: what would differ without the rules."""
    return [strict_cases.run(CASES, programs, "tracer", place, "time")[0] for place in places]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.source in ("random", "order", "pid")], ids=lambda c: c.name
)
def test_without_the_rule_two_runs_differ(case: Case, unfixed: Runs) -> None:
    """Or the case would prove nothing. Layout and identity need another boot or machine to differ, but for some."""
    if case.missing():
        pytest.skip(case.missing())
    if not any(same in case.name for same in ("glob", "boot_id", "entropy_avail")):
        assert unfixed[0][case.name] != unfixed[1][case.name]


@pytest.mark.parametrize(
    "word",
    ["layout", "uname", "sysinfo", "personality", "chdir /etc/machine-id", "fopen /proc/uptime", "open /proc/stat",
     "open /proc/cpuinfo", "openat2 /proc/version", "openat /proc/sys/kernel/random/boot_id"],
)  # fmt: skip
def test_without_the_rule_a_program_sees_another_world(
    word: str, audited: tuple[Runs, list[Audit]], unfixed: Runs
) -> None:
    names = [f"{kind}: {word}" for kind in strict_cases.PROGRAMS]
    assert not [name for name in names if audited[0][0][name] == unfixed[0][name]]


def test_the_table_leaves_no_gap(audited: tuple[Runs, list[Audit]]) -> None:
    assert [dict(audit.gaps) for audit in audited[1]] == [{}, {}, {}]


def test_what_is_fixed_is_in_the_record(audited: tuple[Runs, list[Audit]], programs: Path) -> None:
    calls = ("getrandom", "getdents64", "getdents", "uname", "sysinfo")
    fixed = {(read.program, read.source) for read in audited[1][0].reads if read.outcome == "fixed"}
    assert {(str(programs / "world"), call) for call in calls} <= fixed
    files = ("/dev/urandom", "/dev/random", "/proc/uptime", "/proc/stat", "/etc/hostname", "/etc/machine-id")
    assert {(str(programs / "world"), file) for file in files} <= fixed
    # What is left are files that the table reports, of the system's own programs; root's name; and QEMU's own counter.
    reported = {row.path for row in policy.files("strict") if row.treatment is Treatment.REPORTED}
    leaks = {read.source for read in audited[1][0].leaks} - {"/etc/passwd", "/etc/group"}
    counting = {Path(read.program).name for read in audited[1][0].leaks if read.source == "rdtsc"}
    assert counting <= {"qemu-i386", "qemu-x86_64"}
    leaks.discard("rdtsc")
    assert not [file for file in leaks if not any(fnmatch.fnmatch(file, path) for path in reported)]
    assert not [read for read in audited[1][0].leaks if read.program.startswith(str(programs))]


def test_streams_of_threads_children_and_programs_are_different(audited: tuple[Runs, list[Audit]]) -> None:
    """Each line of these cases is a read of its own."""
    endings = (": getrandom", ": getentropy", "threads", "mktemp")
    lines = [
        line
        for case in CASES
        if case.name.endswith(endings)
        for line in audited[0][0][case.name].removeprefix("b'").split("\\n")
        if len(line) > 8
    ]
    assert len(lines) > 80
    assert len(set(lines)) == len(lines)


def test_observe_changes_nothing_and_reports_every_read(programs: Path, places: list[Path]) -> None:
    chosen = [case for case in CASES if case.name.startswith("a dynamic program: ")]
    printed, audit = strict_cases.run(chosen, programs, "tracer", places[0], "observe")
    fixed, _ = strict_cases.run(chosen, programs, "tracer", places[0])
    changed = {case.name for case in chosen if printed[case.name] != fixed[case.name]}
    assert {f"a dynamic program: {word}" for word in ("getrandom", "at-random", "layout", "uname")} <= changed
    leaked = {(read.program, read.source) for read in audit.leaks}
    assert {(str(programs / "world"), call) for call in ("getrandom", "getdents64", "uname")} <= leaked
    assert not [read for read in audit.reads if read.outcome == "fixed"]
    assert not audit.gaps


def test_under_observe_clocks_and_file_times_are_real_and_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Session(strict_cases.EPOCH, "observe", "tracer") as session:
        script = "date +%s; stat -c %Y file; mkdir d; cat file; true"
        done = session.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    now, modified = map(int, done.stdout.split())
    assert abs(now - time.time()) < 30
    assert modified == int((tmp_path / "file").stat().st_mtime)
    sources = {(Path(read.program).name, read.source) for read in session.audit.leaks}
    assert {("date", "clock_gettime"), ("stat", "statx")} <= sources
    # It only looks for files, and under no policy is it shown other times.
    assert not [source for name, source in sources if name == "cat" and "stat" in source]


@pytest.mark.parametrize("rule", policy.RULES)
def test_a_rule_that_is_removed_holds_no_more(rule: str, programs: Path, places: list[Path]) -> None:
    words = {"random": "getrandom", "order": "getdents64", "layout": "layout", "identity": "uname"}
    names = {rule: f"a dynamic program: {word}" for rule, word in words.items()} | {"pid": "the shell: its own number"}
    chosen = [case for case in CASES if case.name in names.values()]
    with_it, _ = strict_cases.run(chosen, programs, "tracer", places[0])
    without, _ = strict_cases.run(chosen, programs, "tracer", places[0], f"strict -{rule}")
    assert {name for name in with_it if with_it[name] != without[name]} == {names[rule]}


def test_the_table_has_a_case_of_every_rule_and_kind() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80
    assert {case.source for case in CASES} == set(policy.RULES)
    assert {case.kind for case in CASES} == {CONSTANT, STREAM}
