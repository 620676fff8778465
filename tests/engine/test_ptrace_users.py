"""Debuggers and LeakSanitizer, which trace others, work in a session as outside; what they let go is fixed again."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from results import ENGINES, EPOCH, KINDS, PYTHON, Nobody, Result, build, gaps, run, run_as_nobody

from conftest import LIBRARY
from detbuild.linux import proc

pytestmark = pytest.mark.parametrize("engine", ENGINES)

FIXED = f"end: 0 failures, {EPOCH}"
REAL = "end: 0 failures, 1700000000"


def debugged(kind: str = "dynamic") -> Path:
    return build("debugged", kind, "-g")


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def leaks(result: Result) -> set[str]:
    assert not gaps(result)
    return {f"{Path(read.program).name} {read.source}" for read in result.audit.leaks}


def users(result: Result) -> set[str]:
    """Programs that used ptrace, whatever for."""
    return {Path(read.program).name for read in result.audit.reads if read.source == "ptrace"}


# Sanitizers ----------------------------------------------------------------------------------------------------------


def sanitized(flag: str) -> Path:
    program = build("debugged", "dynamic", f"-fsanitize={flag}", "-g")
    if run("", program).code:
        pytest.skip(f"no program with -fsanitize={flag} runs here")
    return program


@pytest.mark.parametrize("flag", ["address", "leak"])
@pytest.mark.parametrize("what", ["clean", "leak", "threads"])
def test_a_sanitizer_finds_what_it_finds_outside_and_leaks_no_time(engine: str, flag: str, what: str) -> None:
    program = sanitized(flag)
    inside, outside = (run(which, program, what) for which in (engine, ""))
    assert inside.code == outside.code
    assert bool(inside.code) == (what == "leak")
    assert ("LeakSanitizer: detected memory leaks" in inside.err) == (what == "leak")
    assert inside.lines == [line.replace(REAL, FIXED) for line in outside.lines]
    assert inside.lines[-1] == FIXED
    assert not leaks(inside)
    assert users(inside) == {program.name}


def test_a_sanitizer_works_for_an_ordinary_user(engine: str, as_nobody: Nobody) -> None:
    program = sanitized("leak")
    clean, leaking = (run_as_nobody(as_nobody, engine, program, what) for what in ("threads", "leak"))
    assert clean.said == (0, f"leaks: 0\n4 waited a second\n{FIXED}\n", "")
    assert leaking.code == run("", program, "leak").code == 23
    assert not leaks(clean) | leaks(leaking)


# Debuggers -----------------------------------------------------------------------------------------------------------


def gdb(*commands: str) -> list[str]:
    return ["gdb", "-nx", "-batch", *(word for command in commands for word in ("-ex", command))]


@pytest.mark.parametrize("kind", KINDS)
def test_gdb_runs_a_program_whose_calls_work_and_see_real_time(engine: str, kind: str) -> None:
    need("gdb")
    program = debugged(kind)
    command = [*gdb("break main", "run", "print answer", "continue"), "--args", str(program), "three"]
    inside, outside = (run(which, *command) for which in (engine, ""))
    assert [_anonymous(line) for line in inside.lines] == [_anonymous(line) for line in outside.lines]
    assert inside.code == outside.code
    assert "$1 = 42" in inside.lines
    assert REAL in inside.lines
    assert {"gdb ptrace", f"{program.name} clock_gettime"} <= leaks(inside)


def _anonymous(line: str) -> str:
    return re.sub(r"process \d+|0x[0-9a-f]+", "N", line)


# A program runs until it was traced, by what "{tracer}" stands for; then it goes on, and ends.
SCRIPT = '"$0" until "$1" & sleep 0.3; {tracer}; sleep 0.2; touch "$1"; wait $!; echo $?; date +%s'


def watch(signal: str, trace: Path) -> str:
    """strace in the background, until it has seen something; then its end."""
    return (
        f"traced=$!; strace -o {trace} -p $traced 2>/dev/null & tracer=$!; "
        f"until grep -q clock_nanosleep {trace} 2>/dev/null; do sleep 0.1; done; "
        f"kill -{signal} $tracer; wait $tracer 2>/dev/null"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gdb_attaches_to_a_program_which_comes_back(engine: str, kind: str, tmp_path: Path) -> None:
    need("gdb")
    tracer = " ".join(f"'{word}'" for word in gdb("print answer", "print rounds > 0", "detach")) + " -p $! 2>&1"
    result = run(engine, "sh", "-c", SCRIPT.format(tracer=tracer), debugged(kind), tmp_path / "end")
    assert {"$1 = 42", "$2 = 1"} <= set(result.lines)
    assert result.lines[-3:] == [FIXED, "0", str(EPOCH)]
    assert users(result) == {"gdb"}


def test_what_a_debugger_leaves_untraced_comes_back(engine: str) -> None:
    need("gdb")
    result = run(engine, *gdb("run"), "--args", debugged(), "forks")
    assert f"child: 0 failures, {EPOCH}" in result.lines
    assert REAL in result.lines
    assert leaks(result)


def test_strace_follows_what_it_starts(engine: str, tmp_path: Path) -> None:
    need("strace")
    trace = tmp_path / "trace"
    script = f"{build('debugged')} three; echo $?; ls -d /; exec true"
    inside, outside = (run(which, "strace", "-f", "-o", trace, "sh", "-c", script) for which in (engine, ""))
    assert inside.said == outside.said == (0, f"{REAL}\n3\n/\n", "")
    assert len(re.findall(r"clock_nanosleep\(.* = 0$", trace.read_text(), re.MULTILINE)) == 2
    assert "strace ptrace" in leaks(inside)


def test_strace_with_a_filter_of_its_own_follows_too(engine: str, tmp_path: Path) -> None:
    """It does not hear of the calls that a session fixes: the kernel asks one filter only."""
    need("strace")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "--seccomp-bpf", "-e", "trace=execve", "-o", str(trace), "sh", "-c"]
    result = run(engine, *command, f"{build('debugged')} three; ls -d /")
    assert result.said == (0, f"{REAL}\n/\n", "")
    assert len(re.findall(r"execve\(.* = 0$", trace.read_text(), re.MULTILINE)) == 3


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_what_strace_watched_comes_back_when_it_ends(engine: str, signal: str, tmp_path: Path) -> None:
    need("strace")
    script = SCRIPT.replace("$!", "$traced").format(tracer=watch(signal, tmp_path / "trace"))
    result = run(engine, "sh", "-c", script, debugged(), tmp_path / "end")
    assert result.said == (0, f"{FIXED}\n0\n{EPOCH}\n", "")
    assert "strace ptrace" in leaks(result)


@pytest.mark.parametrize("program", ["gdb", "strace"])
def test_an_ordinary_user_can_debug(engine: str, program: str, as_nobody: Nobody) -> None:
    need(program)
    command = gdb("run", "print 1") + ["--args"] if program == "gdb" else ["strace", "-f", "-o", "/dev/null"]
    result = run_as_nobody(as_nobody, engine, *command, debugged(), "three")
    assert REAL in result.lines
    assert f"{program} ptrace" in leaks(result)


def test_debugging_works_in_a_pid_namespace(engine: str, tmp_path: Path) -> None:
    need("strace")
    options = ["unshare", "-Urpf", "--mount-proc"]
    if run("", *options, "true").code:
        pytest.skip("this kernel refuses namespaces")
    script = SCRIPT.replace("$!", "$traced").format(tracer=watch("TERM", tmp_path / "trace"))
    result = run(engine, *options, "sh", "-c", script, debugged(), tmp_path / "end")
    assert result.said == (0, f"{FIXED}\n0\n{EPOCH}\n", "")
    assert "strace ptrace" in leaks(result)


def test_valgrind_needs_no_ptrace(engine: str) -> None:
    need("valgrind")
    program = debugged()
    inside, outside = (run(which, "valgrind", "-q", program, "three") for which in (engine, ""))
    assert (inside.code, inside.err) == (outside.code, outside.err)
    assert inside.lines == [FIXED]
    assert not leaks(inside)


# The calls themselves ------------------------------------------------------------------------------------------------

_TRACER = f"""
import ctypes, os, signal, subprocess, sys, time
sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import ptrace
from detbuild.linux.libc import libc
def call(request, tid, data=0):
    ctypes.set_errno(0)
    result = libc.ptrace(request, tid, None, data)
    return os.strerror(ctypes.get_errno()) if result < 0 else 'yes'
def start(what='run'):
    child = subprocess.Popen([sys.argv[1], what, '/nowhere'])
    while os.path.realpath(f'/proc/{{child.pid}}/exe') != os.path.realpath(sys.argv[1]): time.sleep(0.01)
    time.sleep(0.1)
    return child
def stop(child): return hex(os.waitpid(child.pid, ptrace.WALL)[1])
"""


def tracer(engine: str, script: str, kind: str = "dynamic") -> Result:
    return run(engine, PYTHON, "-I", "-c", _TRACER + script, debugged(kind))


@pytest.mark.parametrize(
    "script",
    [
        "c = start('until')\nprint(call(16, c.pid), stop(c), call(16, c.pid), call(17, c.pid), c.poll()); c.kill()",
        "c = start('until')\nprint(call(0x4206, c.pid), call(0x4207, c.pid), stop(c), call(17, c.pid))\nc.kill()",
        "c = start('until')\nc.send_signal(19); time.sleep(0.1)\nprint(call(0x4206, c.pid), stop(c), call(17, c.pid))\n"
        "c.kill(); print(c.wait())",
        "c = start('until')\nprint(call(0x4206, c.pid), call(0x4207, c.pid), stop(c)); c.kill(); print(stop(c))",
        "c = start()\ntime.sleep(0.5); print(call(16, c.pid), call(17, c.pid), c.wait())",
        "print(call(16, os.getpid()), call(16, 1 << 22), call(16, 0), call(17, os.getppid()), call(7, os.getppid()))",
    ],
    ids=["attach", "seize", "stopped", "killed", "zombie", "refused"],
)
def test_ptrace_answers_as_outside(engine: str, script: str) -> None:
    inside, outside = (tracer(which, script) for which in (engine, ""))
    assert inside.said == (outside.code, outside.out.replace(REAL, FIXED), outside.err)
    assert not gaps(inside)


def test_a_race_of_attaching_and_dying_ends(engine: str) -> None:
    """Borrowers are killed while they ask, and threads while they are asked for."""
    script = """
for turn in range(25):
    child = start('run' if turn % 2 else 'until')
    borrower = os.fork()
    if not borrower:
        while call(16, child.pid) == 'yes': stop(child), call(17, child.pid)
        os._exit(0)
    time.sleep(turn % 5 * 0.01)
    for pid in (borrower, child.pid) if turn % 3 else (child.pid, borrower): os.kill(pid, 9)
    os.waitpid(borrower, 0), child.wait()
print('done')
"""
    result = tracer(engine, script)
    assert (result.code, result.lines[-1], result.err) == (0, "done", "")
    assert not gaps(result)


def test_a_process_outside_stays_outside(engine: str) -> None:
    outside = subprocess.Popen([debugged(), "until", "/nowhere"])
    try:
        script = f"pid = {outside.pid}\nprint(call(0x4206, pid), call(0x4207, pid), os.waitpid(pid, ptrace.WALL) != 0)"
        result = tracer(engine, f"{script}\nprint(call(17, pid))")
        assert result.said == (0, "yes yes True\nyes\n", "")
        assert outside.poll() is None
        assert proc.status(outside.pid, "TracerPid") == "0"
    finally:
        outside.kill()
        outside.wait()
