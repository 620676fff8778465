"""Who reads the processor's counter: programs are found out, and see the real one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from results import PYTHON, Nobody, Result, build, build_go, gaps, run, run_as_nobody

from conftest import LIBRARY

POLICIES = ["strict", "observe", "time +random"]
WORDS = [
    ("thread", ["1", "1"], 2),
    ("child", ["1"], 1),
    ("fault", ["1", "caught", "1"], 1),
    ("prefix", ["1"], 1),
    ("data", ["caught", "caught", "1"], 1),
]

_READER = """
#include <x86intrin.h>
int later(void) { unsigned long long first = __rdtsc(); return __rdtsc() > first; }
"""
_USER = """
#include <stdio.h>
int later(void);
int main(void) { printf("%d\\n", later()); return 0; }
"""
_OPENER = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words) {
    void *library = dlopen(words[1], RTLD_NOW);
    int (*later)(void) = (int (*)(void))dlsym(library, "later");
    printf("%d\\n", later()); return count != 2; }
"""
_FORKS = """
#include <unistd.h>
#include <sys/wait.h>
__attribute__((constructor)) static void twice(void) { if (fork()) wait(0); }
"""


def readers(result: Result) -> dict[str, int]:
    """How often the record says that each program has read it."""
    found = {Path(read.program).name: count for read, count in result.audit.reads.items() if read.source == "rdtsc"}
    assert {read.outcome for read in result.audit.reads if read.source == "rdtsc"} <= {"leaked"}
    return found


def compiled(directory: Path, name: str, source: str, *flags: str) -> Path:
    program = directory / name
    command = ["gcc", "-O1", "-x", "c", "-", "-x", "none", "-o", str(program), *flags]
    subprocess.run(command, input=source, text=True, check=True)
    return program


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """One whose function reads the counter."""
    return compiled(tmp_path, "liblater.so", _READER, "-shared", "-fPIC")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(("word", "said", "threads"), WORDS)
def test_each_thread_of_a_program_is_found_out_once(
    policy: str, kind: str, word: str, said: list[str], threads: int
) -> None:
    program = build("counter", kind)
    result = run("tracer", program, word, policy=policy)
    assert (result.code, result.lines, gaps(result)) == (0, said, [])
    assert readers(result) == {program.name: threads}


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("policy", ["time", "strict -random"])
def test_without_the_rule_nobody_looks(policy: str, kind: str) -> None:
    assert not readers(run("tracer", build("counter", kind), "thread", policy=policy))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_program_is_found_out_whose_library_reads(policy: str, library: Path, tmp_path: Path) -> None:
    program = compiled(tmp_path, "user", _USER, str(library))
    result = run("tracer", "sh", "-c", f"{program}; {program}", policy=policy)
    assert (result.code, result.lines, gaps(result)) == (0, ["1", "1"], [])
    assert readers(result) == {"user": 2}


@pytest.mark.parametrize(("policy", "found"), [("strict", {}), ("observe", {"opener": 1})])
def test_what_a_program_opens_later_is_found_out_where_nothing_is_changed(
    policy: str, found: dict[str, int], library: Path, tmp_path: Path
) -> None:
    program = compiled(tmp_path, "opener", _OPENER)
    result = run("tracer", program, library, policy=policy)
    assert (result.code, result.lines, gaps(result)) == (0, ["1"], [])
    assert readers(result) == found


@pytest.mark.parametrize("kind", ["dynamic32", "static32"])
@pytest.mark.parametrize(("word", "said", "threads"), WORDS)
def test_32_bit_programs_work_and_are_found_out_where_nothing_is_changed(
    kind: str, word: str, said: list[str], threads: int
) -> None:
    program = build("counter", kind)
    for policy, found in (("strict", {}), ("observe", {program.name: threads})):
        result = run("tracer", program, word, policy=policy)
        assert (result.code, result.lines, gaps(result)) == (0, said, [])
        assert readers(result) == found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_what_a_watched_program_executes_is_not_taken_for_it(policy: str, kind: str) -> None:
    """Its dynamic linker reads the counter too."""
    program, other = build("counter", kind), build("counter", "dynamic32")
    script = f"true; {program} sh -c 'true; {program} {other}; {program} {other} cat /dev/null; echo done'"
    result = run("tracer", program, "sh", "-c", script, policy=policy)
    assert (result.code, result.lines, gaps(result)) == (0, ["done"], [])
    assert not readers(result)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_program_is_found_out_that_another_reader_executes(kind: str) -> None:
    program = build("counter", kind)
    result = run("tracer", program, "sh", "-c", f"{program} child; {program} child", policy="strict")
    assert (result.code, result.lines, readers(result)) == (0, ["1", "1"], {program.name: 2})


def test_a_copy_that_a_librarys_constructor_makes_starts_as_well(tmp_path: Path) -> None:
    """It is not watched: it has no breakpoint."""
    library = compiled(tmp_path, "libtwice.so", _FORKS, "-shared", "-fPIC")
    program = build("counter", "dynamic")
    result = run("tracer", "env", f"LD_PRELOAD={library}", program, "child", policy="strict")
    assert (result.code, result.lines, gaps(result)) == (0, ["1", "1"], [])
    assert readers(result) == {program.name: 1}


_HIDES = """
#include <sys/prctl.h>
__attribute__((constructor)) static void hide(void) { prctl(PR_SET_DUMPABLE, 0); }
"""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["dynamic", "static", "dynamic32"])
def test_a_program_that_hides_its_memory_works(policy: str, kind: str, as_nobody: Nobody) -> None:
    """As gpg-agent does: only root's tracer can still look into it."""
    program = build("counter", kind)
    result = run_as_nobody(as_nobody, "tracer", program, "hidden", policy=policy)
    assert (result.code, result.lines) == (0, ["1"])
    assert readers(result).get(program.name, 0) == (policy == "observe" or kind != "dynamic32")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_program_works_whose_library_hides_its_memory(policy: str, as_nobody: Nobody, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for directory in (tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    library = compiled(tmp_path, "libhide.so", _HIDES, "-shared", "-fPIC")
    program = build("counter", "dynamic")
    words = ["env", f"LD_PRELOAD={library}", str(program), "thread"]
    result = run_as_nobody(as_nobody, "tracer", *words, policy=policy)
    assert (result.code, result.lines) == (0, ["1", "1"])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_program_that_nobody_may_read_starts(policy: str, kind: str, as_nobody: Nobody) -> None:
    program = build("counter", kind)
    hidden = program.with_name(f"{program.name}-hidden")
    shutil.copy(program, hidden)
    hidden.chmod(0o711)
    result = run_as_nobody(as_nobody, "tracer", program, hidden, "child", policy=policy)
    assert (result.code, result.lines) == (0, ["1"])


@pytest.mark.parametrize("policy", POLICIES)
def test_signals_that_are_blocked_stay_so(policy: str) -> None:
    blocked = "import os, signal, sys; signal.pthread_sigmask(0, range(1, 65)); os.execvp(sys.argv[1], sys.argv[1:])"
    mask = "import signal; print(sorted(map(int, signal.pthread_sigmask(0, []))))"
    words = [PYTHON, "-I", "-S", "-c", blocked, PYTHON, "-I", "-S", "-c", mask]
    inside, outside = (run(engine, *words, policy=policy) for engine in ("tracer", ""))
    assert inside.said == outside.said
    assert "5, 6" in inside.out


def test_a_dynamic_linker_that_is_executed_itself_is_no_reader() -> None:
    result = run("tracer", "ldd", build("counter", "dynamic"), policy="observe")
    assert result.code == 0
    assert not readers(result)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_debugger_sees_no_signal_of_ours(policy: str) -> None:
    program = build("counter", "dynamic")
    for debugger in (["gdb", "-nx", "-batch", "-ex", "run", "--args"], ["strace", "-f", "-qq", "-e", "trace=none"]):
        if shutil.which(debugger[0]) is None:
            pytest.skip(f"{debugger[0]} is not installed")
        inside, outside = (run(engine, *debugger, program, "thread", policy=policy) for engine in ("tracer", ""))
        assert (inside.code, gaps(inside)) == (outside.code, [])
        assert inside.lines.count("1") == outside.lines.count("1") == 2
        assert "SIGSEGV" not in inside.out + inside.err
        assert "SIGTRAP" not in inside.out + inside.err


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_attached_to_gets_its_counter_back(policy: str, tmp_path: Path) -> None:
    program = build("counter", "dynamic")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    seen = tmp_path / "seen"
    script = (
        f"{program} wait & until [ $(readlink /proc/$!/exe) = {program} ]; do :; done; "
        f"strace -e trace=none -p $! 2>{seen} & "
        f"until grep -q attached {seen}; do sleep 0.05; done; kill -USR1 %1; wait"
    )
    result = run("tracer", "bash", "-c", script, policy=policy)
    assert (result.lines, gaps(result)) == (["1"], [])
    assert "exited with 0" in seen.read_text()
    assert "SIGSEGV" not in seen.read_text()


# A filter of the program's own that kills whoever calls prctl(2), and what it executes.
_FILTER = f"""
import os, sys
sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import seccomp
from detbuild.linux.x86_64 import NATIVE
code = seccomp.Assembler()
code.load(seccomp.NR)
code.jump_equal(NATIVE.numbers["prctl"], "no")
code.ret(seccomp.RET_ALLOW)
code.label("no")
code.ret(0x80000000)  # SECCOMP_RET_KILL_PROCESS
seccomp.install(code.assemble())
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_sandbox_of_the_programs_own_is_not_broken(policy: str, kind: str) -> None:
    result = run("tracer", PYTHON, "-I", "-S", "-c", _FILTER, build("counter", kind), "thread", policy=policy)
    assert (result.code, result.lines, gaps(result)) == (0, ["1", "1"], [])
    assert readers(result).keys() == ({f"counter-{kind}"} if policy == "observe" else set())


@pytest.mark.skipif(not shutil.which("go"), reason="go is not installed")
def test_a_program_of_gos_is_found_out_and_recovers_from_its_own_faults() -> None:
    program = build_go("counter")
    result = run("tracer", program, policy="strict")
    assert (result.code, result.lines) == (0, ["true"])
    assert readers(result)[program.name] >= 1
