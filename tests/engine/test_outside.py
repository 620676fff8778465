"""Outside files under policy strict: who opens them, wherever, gets fixed ones, or the record says it did not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import strict_cases

from detbuild import Session, outside, policy
from detbuild.audit import Audit
from detbuild.calls import Treatment
from detbuild.engine.filter import Extra, decode, everybody, extra, whole
from detbuild.engine.namespace import Directory
from detbuild.engine.outside import MADE, Asker, Outside, content
from detbuild.engine.stream import Stream
from detbuild.linux import dynamic_linker, seccomp
from detbuild.linux.x86_64 import ABIS

EPOCH = 1_300_000_000
UPTIME = "86400.00 345600.00\n"
REAL = re.compile(r"\d+\.\d\d \d+\.\d\d\n")
ASKER = Asker(os.getpid(), EPOCH, "", Stream(bytes(32)))
TABLE = Outside(policy.files("strict"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    strict_cases.build(directory)
    return directory / "world-static"


def run(
    command: Sequence[object] | str, name: str = "strict", rules: Sequence[dict[str, str]] = ()
) -> tuple[str, Audit]:
    words = ["sh", "-c", command] if isinstance(command, str) else list(map(str, command))
    with Session(EPOCH, name, "tracer", rules=rules) as session:
        done = session.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert not session.audit.gaps
    return done.stdout, session.audit


def outcomes(audit: Audit, program: str) -> set[tuple[str, str]]:
    """What a program did with files."""
    found = {(read.source, read.outcome) for read in audit.reads if Path(read.program).name == program}
    return {(source, outcome) for source, outcome in found if source.startswith("/")}


# The table ---------------------------------------------------------------------------------------------------------


def test_every_file_that_is_fixed_has_a_content_and_no_other() -> None:
    fixed = {rule.path for rule in policy.files("strict") if rule.treatment is Treatment.FIXED}
    assert fixed == MADE
    users = {"/etc/passwd", "/etc/group"}  # root's are real
    assert {path for path in fixed if content(path, ASKER) is None} - users == set(outside.DEVICES)


def test_every_row_says_why_and_stands_once() -> None:
    rows = policy.files("strict")
    assert len({row.path for row in rows}) == len(rows) > 50
    assert not [row.path for row in rows if len(row.reason) < len("the network") or not row.path.startswith("/")]


@pytest.mark.parametrize(
    ("name", "rule", "source"),
    [
        (b"/proc/uptime", "/proc/uptime", "/proc/uptime"),
        (b"/proc//self/../uptime", "/proc/uptime", "/proc/uptime"),
        (b"//dev/./urandom", "/dev/urandom", "/dev/urandom"),
        (b"/proc/%d/stat" % os.getpid(), "/proc/self/*", "/proc/self/stat"),
        (b"/proc/1/task/1/stat", "/proc/PID/*", "/proc/PID/task/PID/stat"),
        (b"/proc/thread-self/stat", "/proc/thread-self/*", "/proc/thread-self/stat"),
        (b"/proc/self/task/7/stat", "/proc/self/*", "/proc/self/task/PID/stat"),
        (b"/proc/self/task/7/comm", "/proc/self/task/PID/comm", "/proc/self/task/PID/comm"),
        (b"/proc/thread-self/attr/exec", "/proc/thread-self/attr/*", "/proc/thread-self/attr/exec"),
        (b"/proc/self/fd/7", "/proc/self/fd/*", "/proc/self/fd/PID"),
        (b"/sys/class/net/lo/address", "/sys/*", "/sys/class/net/lo/address"),
        (b"/proc/sys/kernel/random/uuid", "/proc/sys/kernel/random/uuid", "/proc/sys/kernel/random/uuid"),
        (b"/dev/rtc1", "/dev/rtc*", "/dev/rtc1"),
        (b"/dev/ptp0", "/dev/ptp*", "/dev/ptp0"),
    ],
)
def test_a_name_finds_the_row_of_its_file(name: bytes, rule: str, source: str) -> None:
    found = TABLE.find(Directory(os.getpid()), name)
    assert found
    assert (found.rule.path, found.source) == (rule, source)


@pytest.mark.parametrize("name", [b"/usr/include/stdio.h", b"/home/proc/uptime", b"uptime", b"/etc/fstab", b"/procs/x"])
def test_a_file_of_the_builds_own_has_no_row(name: bytes) -> None:
    assert TABLE.find(Directory(os.getpid()), name) is None


@pytest.mark.parametrize(
    "path",
    ["/etc/papersize", "/etc/locale.conf", "/etc/default/locale", "/etc/gitconfig", "/run/utmp", "/var/run/utmp",
     "/etc/SuSE-release", "/etc/fedora-release", "/etc/arch-release", "/etc/alpine-release"],
)  # fmt: skip
def test_what_tells_of_the_machine_is_reported(path: str) -> None:
    found = TABLE.find(Directory(os.getpid()), path.encode())
    assert found
    assert (found.rule.treatment, found.rule.rule) == (Treatment.REPORTED, "identity")


def test_the_hosts_number_and_mail_name_are_those_of_its_fixed_name() -> None:
    out, audit = run("hostid; cat /etc/mailname")
    assert out == "007f0100\nlocalhost\n"
    assert outcomes(audit, "hostid") >= {("/etc/hostid", "fixed")}


def test_a_rule_that_is_left_out_takes_its_files_with_it() -> None:
    assert {row.rule for row in policy.files("strict -random")} == {"identity"}
    assert {row.rule for row in policy.files("time +random")} == {"random"}
    assert policy.files("time") == ()
    assert {row.treatment for row in policy.files("observe")} == {Treatment.REPORTED, Treatment.PASSED}


def test_a_thread_that_names_its_process_by_number_names_itself() -> None:
    """And so does one that names itself by its own; the number of another process is another process's."""
    found: list[str] = []

    def look() -> None:
        own = Directory(threading.get_native_id())
        for number in (os.getpid(), own.tid, os.getppid()):
            name = TABLE.find(own, b"/proc/%d/stat" % number)
            found.append(name.source if name else "")

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == ["/proc/self/stat", "/proc/self/stat", "/proc/PID/stat"]


HEADER = os.O_RDONLY | os.O_NOCTTY


@pytest.mark.parametrize(
    ("flags", "stops"),
    [
        (os.O_RDONLY, True),
        (os.O_RDONLY | os.O_CLOEXEC, True),
        (os.O_RDWR, True),
        (os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK, True),  # as OpenSSL opens a device
        (os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC, True),
        (HEADER, True),  # as compilers open headers, and some programs any file
        (os.O_WRONLY, False),
        (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, False),
        (os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, False),
        (os.O_PATH, False),
    ],
)
def test_an_open_stops_where_it_may_read_an_outside_file(flags: int, stops: bool) -> None:
    for abi in ABIS:
        for name in ("strict", "observe", "time +identity", "time"):
            rules = policy.rules(name)
            for call, arguments in (("open", (0, flags)), ("openat", (0, 0, flags)), ("openat2", ())):
                given = abi.numbers[call], abi.audit, [*arguments, 0, 0, 0, 0, 0, 0][:6]
                result = seccomp.evaluate(whole(rules), *given)
                held = name != "time" and (stops or call == "openat2")
                assert (result & 0xFFFF0000 == seccomp.RET_TRACE) == held
                assert not held or decode(result & 0xFFFF, rules)[1].call == call
                # Those who open headers in that way have one filter, all others two.
                header = flags == HEADER and call != "openat2"
                assert seccomp.evaluate(everybody(rules), *given) == (seccomp.RET_ALLOW if header else result)
                own = seccomp.evaluate(extra(rules, {Extra.HEADERS}), *given)
                assert own == (result if header else seccomp.RET_ALLOW)


def test_without_a_stream_a_uuid_is_the_kernels() -> None:
    """Anything else would give everybody one."""
    assert content("/proc/sys/kernel/random/uuid", ASKER._replace(stream=None)) is None


# What programs get -------------------------------------------------------------------------------------------------


def test_the_record_names_the_program_and_the_file() -> None:
    out, audit = run("cat /proc/uptime; head -c 3 /dev/urandom | wc -c; grep -c . /proc/1/stat; cat /proc/self/comm")
    assert out == f"{UPTIME}3\n1\ncat\n"
    assert outcomes(audit, "cat") == {("/proc/uptime", "fixed")}
    assert outcomes(audit, "head") == {("/dev/urandom", "fixed")}
    assert outcomes(audit, "grep") == {("/proc/PID/stat", "leaked")}


def test_observe_changes_nothing_and_names_the_files() -> None:
    out, audit = run("cat /proc/uptime; head -c 3 /dev/urandom | wc -c", "observe")
    assert REAL.match(out)
    assert not out.startswith(UPTIME)
    assert outcomes(audit, "cat") == {("/proc/uptime", "leaked")}
    assert outcomes(audit, "head") == {("/dev/urandom", "leaked")}


def test_a_name_in_a_directory_of_the_kernels_is_known_too() -> None:
    _, audit = run("cd /proc/1; cat status > /dev/null; cd /sys/kernel; cat ../kernel/uevent_seqnum > /dev/null")
    assert outcomes(audit, "cat") == {("/proc/PID/status", "leaked"), ("/sys/kernel/uevent_seqnum", "leaked")}


def test_an_open_that_fails_is_no_read() -> None:
    _, audit = run("cat /proc/no-such-file /proc/uptime/x 2>/dev/null; true")
    assert outcomes(audit, "cat") == set()


def test_without_its_rule_a_file_is_real() -> None:
    assert not run("cat /proc/uptime", "strict -identity")[0].startswith(UPTIME)
    script = "head -c 8 /dev/urandom | od -An -tx1"
    assert run(script, "strict -random")[0] != run(script, "strict -random")[0]


def test_a_program_that_makes_keys_reads_the_real_device() -> None:
    rows = [{"names": "head", "random": "real", "reason": "makes keys"}]
    script = "head -c 8 /dev/urandom | od -An -tx1"
    first, audit = run(script, rules=rows)
    assert first != run(script, rules=rows)[0]
    assert outcomes(audit, "head") == {("/dev/urandom", "leaked")}


def test_a_root_of_the_builds_own_keeps_its_own_files(world: Path, tmp_path: Path) -> None:
    """An image's /etc/hostname is no outside file; its /proc is the machine's, even where it is not mounted."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "etc" / "hostname").write_text("image\n")
    (tmp_path / "dev" / "urandom").write_text("no device\n")
    (tmp_path / "world").write_bytes(world.read_bytes())
    (tmp_path / "world").chmod(0o755)
    chroot = ["unshare", "-r", "chroot", tmp_path, "/world", "plain"]
    assert run([*chroot, "open /etc/hostname"])[0] == "image\n0\n"
    assert run([*chroot, "open /proc/uptime"])[0] == f"{UPTIME}0\n"
    out, audit = run([*chroot, "open /dev/urandom"])
    assert out == "no device\n0\n"
    assert not [read for read in audit.reads if "urandom" in read.source]


@pytest.mark.parametrize(
    "prefix",
    [["unshare", "-rpf"], ["unshare", "-rm"], ["setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs"]],
    ids=["of a pid namespace", "of a mount namespace", "of another user"],
)
def test_a_program_gets_its_files(prefix: list[str], world: Path, tmp_path: Path) -> None:
    if prefix[0] == "setpriv" and os.getuid():
        pytest.skip("only root may become another user")
    program = Path("/tmp") / f"detbuild-world-{os.getpid()}"
    program.write_bytes(world.read_bytes())
    program.chmod(0o755)
    try:
        assert run([*prefix, program, "plain", "open /proc/uptime"])[0] == f"{UPTIME}0\n"
        script = [*prefix, program, "plain", "device /dev/urandom"]
        assert run(script)[0] == run(script)[0]
    finally:
        program.unlink()


# A program that has its own code where others have the dynamic linker's, whose opens do not stop.
IN_ITS_PLACE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  static const char code[] = "\x48\x89\xf8\x48\x89\xf7\x48\x89\xd6\x48\x89\xca\x0f\x05\xc3";  // (rdi)(rsi, rdx, rcx)
  void *place = (void *)strtoul(argv[1], 0, 0);
  char text[99] = "";
  if (mmap(place, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != place)
    return 1;
  memcpy(place, code, sizeof code);
  long fd = ((long (*)(long, long, const char *, long))place)(257, AT_FDCWD, "/proc/uptime", O_RDONLY);
  read((int)fd, text, sizeof text - 1);
  fputs(text, stdout);
}
"""


def test_a_static_program_with_code_where_others_have_their_linker_gets_fixed_files(tmp_path: Path) -> None:
    linker = dynamic_linker.find()
    assert linker
    (tmp_path / "own.c").write_text(IN_ITS_PLACE)
    command = ["gcc", "-static", "-no-pie", "-w", str(tmp_path / "own.c"), "-o", str(tmp_path / "own")]
    subprocess.run(command, check=True)
    out, audit = run([tmp_path / "own", hex(linker.start)])
    assert out == UPTIME
    assert outcomes(audit, "own") == {("/proc/uptime", "fixed")}


@pytest.mark.parametrize(
    "script",
    [
        "ulimit -s unlimited; cat /proc/uptime",
        "ulimit -s 1000000; cat /proc/uptime; (cat /proc/uptime)",
        "/lib64/ld-linux-x86-64.so.2 $(command -v cat) /proc/uptime",
        'python3 -I -S -c \'import os; os.fork() or os.execv("/bin/cat", ["cat", "/proc/uptime"]); os.wait()\'',
        "nice cat /proc/uptime",
    ],
)
def test_whatever_a_programs_linker_is_its_own_opens_stop(script: str) -> None:
    assert set(run(script)[0].splitlines()) == {UPTIME.strip()}


@pytest.mark.parametrize("flags", [[], ["-static-pie"], ["-m32"]], ids=lambda flags: " ".join(flags) or "dynamic")
def test_a_program_of_each_form_gets_fixed_files(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.c").write_text(
        '#include <stdio.h>\nint main(void) { char s[99]; puts(fgets(s, 99, fopen("/proc/uptime", "r"))); }'
    )
    subprocess.run(["gcc", *flags, tmp_path / "own.c", "-o", tmp_path / "own"], check=True)
    assert run([tmp_path / "own"])[0].strip() == UPTIME.strip()


def test_a_program_that_nobody_knows_opens_nothing_as_compilers_open_headers(tmp_path: Path) -> None:
    (tmp_path / "own.c").write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        'int main(void) { char s[99]; int f = open("/proc/uptime", O_NOCTTY); write(1, s, read(f, s, 99)); }'
    )
    subprocess.run(["gcc", "-w", tmp_path / "own.c", "-o", tmp_path / "own"], check=True)
    assert run([tmp_path / "own"])[0] == UPTIME
    assert run(f"env {tmp_path}/own; ({tmp_path}/own)")[0] == UPTIME * 2
    # By a rule of the user's own it may.
    out, audit = run([tmp_path / "own"], rules=[{"names": "own", "reads": "true", "opens": "most"}])
    assert REAL.fullmatch(out)
    assert not outcomes(audit, "own")


def test_a_program_with_filters_of_several_kinds_is_not_taken_for_one_with_its_own() -> None:
    """mktemp stops at all clocks, a program with another limit of its stack at its linker's opens."""
    script = "ulimit -s unlimited; for i in 1 2 3; do mktemp -u > /dev/null; done; exec env env cat /proc/uptime"
    out, audit = run(script)
    assert out == UPTIME
    assert outcomes(audit, "cat") == {("/proc/uptime", "fixed")}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become two other users")
def test_every_user_but_root_has_one_name_and_knows_the_others() -> None:
    script = "id -un; id -gn; whoami; stat -c %U:%G /; getent passwd nobody | cut -d: -f1; id -u nobody"
    names = set()
    for number in (65534, 12345):
        user = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", "sh", "-c", script]
        out, audit = run(user)
        names.add(out)
        assert outcomes(audit, "id") == {("/etc/passwd", "fixed"), ("/etc/group", "fixed")}
    assert names == {"builder\nbuilder\nbuilder\nroot:root\nnobody\n65534\n"}
    out, audit = run("id -un")
    assert out == "root\n"
    assert outcomes(audit, "id") == {("/etc/passwd", "leaked")}


def test_a_file_is_opened_at_the_lowest_number_and_cannot_be_written() -> None:
    snippet = (
        "import os; d = os.open('/proc/uptime', os.O_RDONLY); e = os.dup(0); print(e - d)\n"
        "try: os.write(d, b'x')\nexcept OSError as error: print(error.errno)\nprint(os.get_inheritable(d))"
    )
    assert run([sys.executable, "-I", "-S", "-c", snippet])[0] == "1\n1\nFalse\n"


def test_without_a_free_descriptor_the_error_is_the_kernels(world: Path) -> None:
    out, audit = run(f"ulimit -n 3; exec {world} plain 'open /proc/uptime'")
    assert out == "-1\n"
    assert outcomes(audit, world.name) == set()


_FILTER = """
import os, struct, sys
sys.path.insert(0, {library!r})
from detbuild.linux import dynamic_linker, seccomp
from detbuild.linux.x86_64 import NATIVE
code = seccomp.Assembler()
code.load(seccomp.NR)
code.jump_equal(NATIVE.numbers["memfd_create"], "no")
code.ret(seccomp.RET_ALLOW)
code.label("no")
code.ret({action})
seccomp.install(code.assemble())
os.execvp(sys.argv[1], sys.argv[1:])
"""
_LIBRARY = str(Path(policy.__file__).resolve().parents[1])
_KILL = 0x80000000


def test_a_sandbox_of_the_programs_own_is_not_broken() -> None:
    """Its filter kills who calls what it does not know: the file is real then, and reported."""
    sandbox = [sys.executable, "-I", "-S", "-c", _FILTER.format(library=_LIBRARY, action=_KILL)]
    out, audit = run([*sandbox, "cat", "/proc/uptime"])
    assert REAL.fullmatch(out)
    assert outcomes(audit, "cat") == {("/proc/uptime", "leaked")}


def test_where_an_outer_sandbox_refuses_memory_files_the_file_is_real_and_reported(tmp_path: Path) -> None:
    refused = 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
    command = [Path(sys.executable).with_name("detbuild"), "run", "--epoch", str(EPOCH), "--policy", "strict"]
    sandbox = [sys.executable, "-I", "-S", "-c", _FILTER.format(library=_LIBRARY, action=refused)]
    record = tmp_path / "audit.json"
    words = [*sandbox, *command, "--audit", record, "--engine", "tracer", "--", "cat", "/proc/uptime", "/proc/version"]
    out = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True, timeout=120).stdout
    assert REAL.match(out)
    assert "6.12.0" not in out
    audit = Audit.from_json(record.read_text())
    assert outcomes(audit, "cat") == {("/proc/uptime", "leaked"), ("/proc/version", "leaked")}


def test_threads_that_run_already_read_a_device_that_another_opens() -> None:
    snippet = (
        "import os, threading as t\n"
        "opened, lines = t.Event(), {}\n"
        "def look(n):\n opened.wait(); lines[n] = os.read(f, 9)\n"
        "threads = [t.Thread(target=look, args=(n,)) for n in range(7)]\n"
        "[x.start() for x in threads]; f = os.open('/dev/urandom', 0); opened.set()\n"
        "[x.join() for x in threads]; print(lines[0], sorted(lines.values()))"
    )
    command = [sys.executable, "-I", "-S", "-c", snippet]
    first, audit = run(command)
    assert first == run(command)[0]
    assert len(set(re.findall(r"b['\"].*?['\"](?=[,\] ])", first))) == 7
    assert ("/dev/urandom", "fixed") in outcomes(audit, Path(os.path.realpath(sys.executable)).name)


def test_a_device_does_not_end(tmp_path: Path) -> None:
    script = "head -c 20000003 /dev/urandom | sha256sum; dd if=/dev/urandom bs=5000011 count=3 2>/dev/null | wc -c"
    out = run(script)[0]
    assert out.endswith("15000033\n")
    assert out == run(script)[0]
