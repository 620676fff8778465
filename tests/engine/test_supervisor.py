"""What a supervisor answers by itself: times in registers, and calls that are refused, reported or passed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest
from results import KINDS, PYTHON, Nobody, build
from supervised import EPOCH, Ran, parsed, run

from detbuild.audit import Read

SHELL = Path("/bin/sh").resolve().name
PYTHON_TIME = "import ctypes; time = ctypes.CDLL(None, use_errno=True).syscall"
X86_64 = ["dynamic", "static"]


HOWS = ("plain", "fork", "thread", "vfork", "spawn")
SOURCES = ("raw-time", "adjtimex", "clock_adjtime", "raw-adjtimex", "raw-clock_adjtime")


@cache
def told(kind: str) -> tuple[dict[str, str], Ran]:
    """Each way and source -> what a program of that kind was told; all in one session."""
    ways = [f"{how} {source}" for how in HOWS for source in SOURCES]
    result = run("sh", "-c", 'program=$1; shift; for way; do "$program" $way; done', "sh", build("clocks", kind), *ways)
    return dict(zip(ways, result.lines, strict=True)), result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_program_of_any_kind_is_told_the_epoch(source: str, how: str, kind: str) -> None:
    answers, result = told(kind)
    assert answers[f"{how} {source}"] == f"{EPOCH} 0"
    assert not result.gaps
    assert result.audit.reads.total() == len(answers)


@pytest.mark.parametrize("kind", X86_64)
@pytest.mark.parametrize("source", ["gate-time", "gate-adjtimex", "gate-clock_adjtime", "gate-clock_adjtime64"])
def test_the_32_bit_gate_tells_the_epoch(source: str, kind: str) -> None:
    assert run(build("clocks", kind), "plain", source).lines == [f"{EPOCH} 0"]


def test_the_page_of_fixed_addresses_tells_the_epoch() -> None:
    program = build("clocks")
    outside = subprocess.run([program, "plain", "vsyscall-time"], capture_output=True, check=False)
    if outside.returncode:
        pytest.skip("this kernel has no vsyscall page")
    assert run(program, "plain", "vsyscall-time").lines == [f"{EPOCH} 0"]


def test_an_address_out_of_bounds_is_the_callers_own_error() -> None:
    for source in ("bad-time", "bad-adjtimex"):
        assert run(build("clocks"), "plain", source).out.startswith("-1 EFAULT then ")


def test_a_clock_moves_by_a_read_and_is_its_threads_own() -> None:
    script = (
        "import ctypes, threading\nlibc = ctypes.CDLL(None)\n"
        "def reads(n): return [libc.syscall(201, 0) for _ in range(n)]\n"
        "first = reads(1030)\nprint(first[0], first[1023], first[1029])\n"
        "threading.Thread(target=lambda: print(*reads(1))).start()"
    )
    assert run(PYTHON, "-I", "-S", "-c", script).lines == [f"{EPOCH} {EPOCH} {EPOCH + 5}", str(EPOCH)]


def test_an_ordinary_user_is_told_the_epoch(as_nobody: Nobody, public: Path) -> None:
    shutil.copy(Path(__file__).with_name("supervised.py"), public)
    result = parsed(as_nobody(str(public / "supervised.py"), str(build("clocks")), "spawn", "raw-time"))
    assert result.lines == [f"{EPOCH} 0"]
    assert not result.gaps


def test_every_read_is_recorded_under_its_program() -> None:
    program = build("clocks")
    result = run("sh", "-c", f"{program} plain raw-time; {program} fork raw-time; {program} plain adjtimex")
    name, parents = program.name, (SHELL,)
    assert result.audit.reads == {
        Read(str(program), "time", "fixed", name, "plain raw-time", parents): 1,
        Read(str(program), "time", "fixed", name, "fork raw-time", parents): 1,
        Read(str(program), "clock_adjtime", "fixed", name, "plain adjtimex", parents): 1,
    }


def test_a_program_that_lives_in_the_real_time_is_told_it(tmp_path: Path) -> None:
    make = tmp_path / "make"
    shutil.copy(build("clocks", "static"), make)
    before = int(time.time())
    result = run(make, "plain", "raw-time")
    assert before <= int(result.out.split()[0]) <= time.time()
    assert result.audit.reads == {Read(str(make), "time", "passed", "make", "plain raw-time"): 1}


def test_what_is_refused_does_not_exist_and_what_is_reported_is_counted() -> None:
    script = (
        f"{PYTHON_TIME}\nimport errno, os\n"
        "for call in (435, 425, 227, 164):\n print(time(call, 0, 0), errno.errorcode[ctypes.get_errno()])\n"
        "pid = os.fork()\nif pid == 0: print(time(101, 0, 0, 0, 0), flush=True); os._exit(0)\nos.wait()\n"
    )
    result = run(PYTHON, "-u", "-I", "-S", "-c", script)
    assert result.lines == ["-1 ENOSYS"] * 4 + ["0"]
    assert {read[:3]: count for read, count in result.audit.leaks.items()} == {(PYTHON, "ptrace", "leaked"): 1}


def test_three_hundred_processes_at_once_are_told_the_epoch() -> None:
    program = build("clocks", "static")
    script = f"for i in $(seq 300); do sleep 0.0$i & {program} spawn raw-time & done; wait"
    result = run("sh", "-c", script)
    assert result.lines == [f"{EPOCH} 0"] * 300
    assert not result.gaps
    read = Read(str(program), "time", "fixed", program.name, "plain raw-time", (program.name, SHELL))
    assert result.audit.reads[read] == 300
    assert len(result.decisions) == 902  # sh, seq, and of each of the 300 a sleep and the program twice


WRITES = ("utime", "utimes", "utimensat", "futimens", "raw-utime", "raw-utimes", "raw-futimesat", "raw-utimensat")


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Where every call of a kind of program wrote a shown time, one before and one after; and when that began."""
    place, before = tmp_path_factory.mktemp("written"), time.time_ns() // 10**9
    program = build("file_times", request.param)
    times = {"shown": (EPOCH, 0), "past": (1_200_000_000, 7), "future": (1_500_000_000, 7)}
    words = [f"{call} {name}-{call} {when} {rest}" for call in WRITES for name, (when, rest) in times.items()]
    for word in words:
        path = place / word.split()[1]
        path.touch()
        os.utime(path, (1, 1))
    script = 'cd "$1"; program=$2; shift 2; for word; do "$program" set $word || exit 1; done'
    result = run("sh", "-c", script, "sh", place, program, *words)
    assert (result.code, result.err, result.gaps) == (0, "", [])
    return place, before


@pytest.mark.parametrize("call", WRITES)
def test_a_shown_time_is_not_written(call: str, written: tuple[Path, int]) -> None:
    place, before = written
    shown = (place / f"shown-{call}").stat()
    assert before <= int(shown.st_mtime) <= time.time()
    assert before <= int(shown.st_atime) <= time.time()
    assert int((place / f"past-{call}").stat().st_mtime) == 1_200_000_000
    assert int((place / f"future-{call}").stat().st_mtime) == 1_500_000_000


def test_a_time_that_is_omitted_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, (5, 5))
    assert run(build("file_times"), "set", "omit", path, str(EPOCH), "0").code == 0
    assert path.stat().st_atime == 5
    assert path.stat().st_mtime > EPOCH + 10**8


def test_programs_that_carry_times_over_write_them_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (EPOCH, EPOCH))
    script = "cp -p old copied; touch -r old referred; touch -d @1300000000 dated"
    unpack = "tar cf a.tar old; mkdir out; tar xf a.tar -C out"
    result = run("sh", "-c", f"cd {tmp_path} && {script} && {unpack}")
    assert (result.code, result.err, result.gaps) == (0, "", [])
    for name in ("copied", "referred", "dated", "out/old"):
        assert (tmp_path / name).stat().st_mtime == EPOCH


def test_a_crowd_that_writes_times_at_once_writes_now(tmp_path: Path) -> None:
    script = (
        "import os, sys, threading\n"
        "def write(n):\n"
        f" for _ in range(20): open(str(n), 'w').close(); os.utime(str(n), ({EPOCH}, {EPOCH}))\n"
        "threads = [threading.Thread(target=write, args=(n,)) for n in range(20)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]"
    )
    before = int(time.time())
    result = run("sh", "-c", f'cd {tmp_path} && "$0" -I -S -c "$1"', PYTHON, script)
    assert (result.code, result.err, result.gaps) == (0, "", [])
    assert all((tmp_path / str(n)).stat().st_mtime >= before for n in range(20))
