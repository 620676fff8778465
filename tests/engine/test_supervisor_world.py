"""The rules of policy strict under a supervisor: the table's cases, and the same answers as the tracer's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import strict_cases
import supervised
from results import PYTHON, build
from strict_cases import CASES, NAMES, Case

from detbuild.engine.identity import NODE

Run = tuple[dict[str, str], supervised.Ran]
# The double of BPF writes to no program's memory, not even a clock, and random devices are real under this engine.
_UNHELD = ("at-random", "what mktemp makes", "random numbers of bash", "uuidgen", "an image of mke2fs")
HELD = [case for case in CASES if not case.name.endswith(_UNHELD) and not case.device]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    strict_cases.build(directory)
    return directory


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two directories with the same files, made in different orders."""
    found = [tmp_path_factory.mktemp(name) / "here" for name in ("first", "second")]
    for number, place in enumerate(found):
        strict_cases.furnish(place, number)
    return found


def ran(place: Path, programs: Path) -> Run:
    given = strict_cases.given(HELD, programs, place)
    result = supervised.run(*strict_cases.driver_command(place), policy="strict", input=given)
    assert not result.gaps
    return strict_cases.printed(HELD, result.out), result


@pytest.fixture(scope="module")
def both(programs: Path, places: list[Path]) -> list[Run]:
    return [ran(place, programs) for place in places]


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_two_runs_print_the_same(case: Case, both: list[Run]) -> None:
    assert both[0][0][case.name] == both[1][0][case.name]


def test_the_tracer_prints_the_same(both: list[Run], programs: Path, places: list[Path]) -> None:
    """But where memory lies: the double hides no vDSO, which moves it."""
    cases = [case for case in HELD if case.source != "layout"]
    printed, _ = strict_cases.run(cases, programs, "tracer", places[0], "strict")
    assert printed == {case.name: both[0][0][case.name] for case in cases}


def test_what_is_fixed_is_in_the_record(both: list[Run], programs: Path) -> None:
    audit = both[0][1].audit
    fixed = {(read.program, read.source) for read in audit.reads if read.outcome == "fixed"}
    calls = ("getrandom", "getdents64", "getdents", "uname", "sysinfo")
    assert {(str(programs / "world"), call) for call in calls} <= fixed
    assert {(str(programs / "world"), file) for file in ("/proc/uptime", "/etc/hostname", "/etc/machine-id")} <= fixed
    # What is left are files that the table reports, of the system's own programs.
    assert not [read for read in audit.leaks if read.program.startswith(str(programs)) or read.source[0] != "/"]


_INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
print(*{len(os.listdir()) for _ in range(300)})
"""


def test_a_signal_makes_no_entry_get_lost(places: list[Path]) -> None:
    """Before Linux 5.19 it takes the call back, perhaps after the supervisor had answered it."""
    command = ("sh", "-c", 'cd "$1"; exec "$0" -I -S -c "$2"', PYTHON, places[0], _INTERRUPTED)
    result = supervised.run(*command, policy="strict", old_kernel=True)
    assert (result.out, result.err, result.gaps) == (f"{len(NAMES)}\n", "", [])


_DRAWS = """
import hashlib, os, signal
if "SIGNALS" in os.environ:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
print(hashlib.sha256(b"".join(os.urandom(8) for _ in range(1000))).hexdigest())
"""


def test_a_signal_makes_no_random_number_get_lost() -> None:
    found = [
        supervised.run("env", f"{name}=1", PYTHON, "-I", "-S", "-c", _DRAWS, policy="strict", old_kernel=True)
        for name in ("SIGNALS", "QUIET")
    ]
    assert [result.gaps for result in found] == [[], []]
    assert found[0].out == found[1].out
    assert len(found[0].out) == 65


def test_what_makes_keys_has_real_random_numbers_and_is_reported() -> None:
    found = [supervised.run("sh", "-c", "openssl rand -hex 16", policy="strict") for _ in range(2)]
    assert found[0].out != found[1].out
    reads = {(Path(read.program).name, read.outcome) for read in found[0].audit.reads if read.source == "getrandom"}
    assert ("openssl", "leaked") in reads
    assert ("openssl", "fixed") not in reads


def test_a_random_device_is_on_record_and_what_bpf_would_not_see_is_refused(tmp_path: Path) -> None:
    script = f"cd {tmp_path}; od -An -N8 -tx1 /dev/urandom; openssl rand -rand /dev/random 8 > key"
    ran = supervised.run("sh", "-c", script, policy="strict")
    outcomes = {(Path(read.program).name, read.source, read.outcome) for read in ran.audit.reads}
    assert {("od", "/dev/urandom", "fixed"), ("openssl", "/dev/random", "leaked")} <= outcomes
    assert not ran.gaps
    moves = "import os\nfor name in ('/dev/urandom', '/etc/hosts'):\n f = os.open(name, 0); r, w = os.pipe()\n"
    moves += " try: print(os.sendfile(w, f, None, 8))\n except OSError as e: print(-e.errno)\n"
    moved = [supervised.run(PYTHON, "-c", moves, policy=policy).lines for policy in ("time", "strict")]
    assert moved == [["8", "8"], ["-22", "8"]]


def test_a_file_with_a_devices_name_in_a_root_of_its_own_is_none(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "urandom").write_text("plain\n")
    script = f"import os; os.chroot({str(tmp_path)!r}); print(open('/dev/urandom').read())"
    ran = supervised.run("unshare", "--user", "--map-root-user", PYTHON, "-c", script, policy="strict")
    assert ran.lines[0] == "plain"
    name = Path(PYTHON).name
    assert not [read for read in ran.audit.reads if read.program.endswith(name) and read.source == "/dev/urandom"]


_OPENS = """
import errno, os, resource
def tried(*arguments):
    try:
        fd = os.open(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    text = os.read(fd, 99)
    os.close(fd)
    return text
print(tried("/etc/hostname", 0), tried("hostname", 0), tried("/proc/nothing", 0))
fd = os.open("/etc/hostname", os.O_RDONLY)
print(os.get_inheritable(fd), os.lseek(fd, 3, 0), os.read(fd, 2), os.pread(fd, 99, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (fd, fd))
print(tried("/etc/hostname", 0))
"""


def test_an_open_is_given_a_file_of_its_own(programs: Path) -> None:
    command = ("sh", "-c", 'cd /etc; exec "$0" -I -S -c "$1"', PYTHON, _OPENS)
    result = supervised.run(*command, policy="strict")
    assert result.lines == [
        f"{NODE.encode() + bytes([10])!r} {NODE.encode() + bytes([10])!r} ENOENT",
        f"False 3 {NODE.encode()[3:5]!r} {NODE.encode() + bytes([10])!r}",
        "EMFILE",
    ]
    assert {read.source: read.outcome for read in result.audit.reads if "hostname" in read.source} == {
        "/etc/hostname": "fixed"
    }
    assert not [read for read in result.audit.reads if "nothing" in read.source]


def test_observe_changes_nothing_and_reports_what_strict_would_fix(programs: Path, places: list[Path]) -> None:
    words = ("getrandom", "getdents64", "uname", "sysinfo", "layout", "personality")
    script = (
        "; ".join(f"{programs}/world plain {word}" for word in words)
        + f"; {build('clocks')} plain raw-time; stat -c %Y here"
    )
    before = int(time.time())
    result = supervised.run("sh", "-c", f"cd {places[0].parent}; {script}; cat here/{NAMES[0]}", policy="observe")
    assert not result.gaps
    assert os.uname().nodename in result.out
    now, modified, _ = result.lines[-3:]
    assert before <= int(now.split()[0]) <= time.time()
    assert int(modified) == int(places[0].stat().st_mtime)
    reads = {(Path(read.program).name, read.source, read.outcome) for read in result.audit.reads}
    calls = {("world", call, "leaked") for call in ("getrandom", "getdents64", "uname", "sysinfo")}
    assert calls | {(build("clocks").name, "time", "leaked"), ("stat", "statx", "leaked")} <= reads
    assert "fixed" not in {outcome for *_, outcome in reads}
    # It only looks for files, and under no policy is it shown other times.
    assert not [source for name, source, _ in reads if name == "cat" and "stat" in source]


_HALVES = """
import ctypes, os, struct
libc, buffer, fd = ctypes.CDLL(None), ctypes.create_string_buffer(512), os.open(".", os.O_RDONLY)
def read():
    at, got = 0, libc.syscall(217, fd, buffer, len(buffer))
    while at < got:
        print(buffer.raw[at + 19:].split(b"\\0")[0].decode(), flush=True)
        at += struct.unpack_from("=H", buffer.raw, at + 16)[0]
    return got
read()
open("..first", "w")
if os.fork() == 0:
    while read(): pass
    os._exit(0)
os.wait()
os.remove("..first")
"""


def test_a_child_reads_on_where_its_parent_stopped(places: list[Path]) -> None:
    """In the parent's listing, where a file that was made since does not shift the others."""
    result = supervised.run("sh", "-c", 'cd "$1"; exec "$0" -I -S -c "$2"', PYTHON, places[0], _HALVES, policy="strict")
    assert (result.lines, result.err) == ([".", "..", *sorted(NAMES)], "")
