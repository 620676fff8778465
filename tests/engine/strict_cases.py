"""One table of what policy `strict` fixes beyond the clocks, for every engine that holds it.

A case is right where two runs print the same: in two directories whose files were made in different orders, at two
times. ``python3 strict_cases.py PROGRAMS ENGINE DIRECTORY`` prints one JSON line a case: its name and what it printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detbuild import Session
from detbuild.audit import Audit

EPOCH = 1_300_000_000
# Prime in number, so that no batch ends with it; of lengths that fill no buffer evenly, and of several kinds.
NAMES = tuple(f"{'f' * (number % 7)}{number * 37 % 101}-{number}" for number in range(97))
# What a case's two runs print beside each other tells of the rule by which they are the same.
CONSTANT, STREAM = "constant", "stream"


@dataclass(frozen=True)
class Case:
    """``argv`` may hold {programs} and {here}; ``source`` is the rule that fixes it; a STREAM depends on the seed."""

    name: str
    source: str
    argv: tuple[str, ...]
    kind: str = CONSTANT
    needs: str = ""

    @property
    def device(self) -> bool:
        """Whether what it prints comes from a random device."""
        return self.name.endswith(("gcc -flto", "the order of keys")) or any("/dev/" in word for word in self.argv)

    def missing(self) -> str:
        """What this machine lacks for the case, "" if nothing."""
        return f"{self.needs} is not installed" if self.needs and not shutil.which(self.needs) else ""


WORDS = {
    "getrandom": ("random", STREAM),
    "getentropy": ("random", STREAM),
    "at-random": ("random", STREAM),
    "readdir": ("order", CONSTANT),
    "getdents64": ("order", CONSTANT),
    "getdents": ("order", CONSTANT),
    "layout": ("layout", CONSTANT),
    "personality": ("layout", CONSTANT),
    "uname": ("identity", CONSTANT),
    "sysinfo": ("identity", CONSTANT),
    "device /dev/urandom": ("random", STREAM),
    "device /dev/random": ("random", STREAM),
}
# Told by the first word: the call by which the program opens the file.
FILES = {
    "open /proc/sys/kernel/random/uuid": ("random", STREAM),
    "openat /proc/sys/kernel/random/boot_id": ("random", STREAM),
    "open /proc/sys/kernel/random/entropy_avail": ("random", CONSTANT),
    "open /etc/hostname": ("identity", CONSTANT),
    "chdir /etc/machine-id": ("identity", CONSTANT),
    "open /etc/localtime": ("identity", CONSTANT),
    "zone": ("identity", CONSTANT),
    "fopen /proc/uptime": ("identity", CONSTANT),
    "chdir /proc/uptime": ("identity", CONSTANT),
    "openat /proc/loadavg": ("identity", CONSTANT),
    "open /proc/stat": ("identity", CONSTANT),
    "open /proc/cpuinfo": ("identity", CONSTANT),
    "openat2 /proc/version": ("identity", CONSTANT),
    "open /proc/../proc//./sys/kernel/osrelease": ("identity", CONSTANT),
    "openat /proc/sys/kernel/hostname": ("identity", CONSTANT),
    "open /sys/devices/system/cpu/online": ("identity", CONSTANT),
    "affinity": ("identity", CONSTANT),
}
PROGRAMS = {
    "a dynamic program": "world",
    "a static program": "world-static",
    "a 32-bit program": "world-32",
    "a static 32-bit program": "world-static-32",
}
HOWS = {"plain": "", "fork": " and its forked child", "thread": " and its thread"}


def _c_cases() -> Iterator[Case]:
    for kind, program in PROGRAMS.items():
        for how, also in HOWS.items():
            for word, (source, depends) in WORDS.items():
                yield Case(f"{kind}{also}: {word}", source, (f"{{programs}}/{program}", how, word), depends)
        for word, (source, depends) in FILES.items():
            yield Case(f"{kind}: {word}", source, (f"{{programs}}/{program}", "plain", word), depends)


def _tool_cases() -> Iterator[Case]:
    python = os.path.realpath(sys.executable)
    for name, source, script, kind in (
        ("a shell's glob and ls -U", "order", "echo *; ls -U; ls -fU {here}", CONSTANT),
        ("find", "order", "find . -type f", CONSTANT),
        ("tar's members", "order", "tar -cf - . | tar -t", CONSTANT),
        ("grep -r", "order", "grep -r content .", CONSTANT),
        ("mktemp", "random", "for n in 1 2 3; do mktemp -u; done; mktemp -u; (mktemp -u)", STREAM),
        (
            "what mktemp makes",
            "random",
            "d=$(mktemp -d ./XXXXXXXX); f=$(mktemp ./XXXXXXXX); echo $d $f; rm -r $d $f",
            CONSTANT,
        ),
        ("shuf", "random", "seq 50 | shuf", STREAM),
        ("sort -R", "random", "seq 50 | sort -R", STREAM),
        ("head of a random device", "random", "head -c 16 /dev/urandom | od -An -tx1", STREAM),
        (
            "od of a redirected device",
            "random",
            "od -An -N16 -tx1 < /dev/random; od -An -N16 -tx1 < /dev/random",
            STREAM,
        ),
        ("letters until a pipe breaks", "random", "tr -dc a-z < /dev/urandom | head -c 20", STREAM),
        ("dd's blocks are whole", "random", "dd if=/dev/urandom bs=3000017 count=1 | sha256sum", STREAM),
        ("cat of a device to a pipe", "random", "cat /dev/urandom | head -c 300000 | sha256sum", STREAM),
        ("a child of a shell that holds the device", "random", "exec 7< /dev/urandom; od -An -N9 -tx1 <&7", STREAM),
        ("a uuid", "random", "cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/uuid", STREAM),
        (
            "the sections of gcc -flto",
            "random",
            "cd $(mktemp -d); echo 'int f(void) { return 7; }' > a.c; gcc -O2 -flto -c a.c && objdump -h a.o"
            " | grep -o 'lto_[^ ]*'; rm -r $PWD",
            STREAM,
        ),
        ("its own number", "pid", "echo $$; (echo $$); echo $(echo $$)", STREAM),
        ("the number of a child, and of its parent", "pid", "for n in 1 2; do sh -c 'echo $$ $PPID'; done", STREAM),
        ("the number of bash, and of what it becomes", "pid", "bash -c 'echo $$; exec sh -c \"echo \\$\\$\"'", STREAM),
        (
            "what gives a number back",
            "pid",
            "trap 'echo caught $$' USR1; kill -USR1 $$; /bin/kill -USR1 $$; bash -c 'kill -USR1 $PPID';"
            " renice -n 1 $$ > /dev/null; ionice -c 3 -p $$; prlimit --nofile=99 --pid $$; ulimit -n; nice; ionice",
            STREAM,
        ),
        ("twenty shells at once", "pid", "{ for n in $(seq 20); do sh -c 'echo $$' & done; wait; } | sort", STREAM),
        ("jobs of bash", "pid", "bash -c 'set -m; sleep 0 & wait %1; kill -0 $$; echo $$ $?'", STREAM),
        ("random numbers of bash", "pid", "bash -c 'echo $RANDOM $RANDOM'", STREAM),
        ("grep of the processors", "identity", "grep -c ^processor /proc/cpuinfo; grep flags /proc/cpuinfo", CONSTANT),
        ("nproc", "identity", "nproc; nproc --all; getconf _NPROCESSORS_ONLN", CONSTANT),
        ("the read of a shell", "identity", "read up idle < /proc/uptime; echo $up", CONSTANT),
        ("date's zone", "identity", "unset TZ; date -d @86400 +%H:%M%Z", CONSTANT),
        ("uptime", "identity", "cut -d. -f1 /proc/uptime /proc/loadavg", CONSTANT),
        (
            "the host's name can be looked up",
            "identity",
            "getent hosts $(hostname) | tr -s ' ' | cut -d' ' -f2",
            CONSTANT,
        ),
        ("uname and hostname", "identity", "uname -a; hostname", CONSTANT),
        ("setarch keeps the layout", "layout", "setarch x86_64 head -1 /proc/self/maps | cut -d' ' -f1", CONSTANT),
    ):
        yield Case(f"the shell: {name}", source, ("/bin/sh", "-c", script), kind)
    for name, source, snippet, kind in (
        ("os.urandom", "random", "import os; print(os.urandom(16))", STREAM),
        ("random", "random", "import random; print(random.random())", STREAM),
        ("uuid4", "random", "import uuid; print(uuid.uuid4())", STREAM),
        ("the order of a set", "random", "print({'a', 'b', 'c', 'd', 'e', 'f', 'g'})", STREAM),
        # Of what exists early: later addresses vary by Python's own doing, with setarch -R outside a session too.
        ("id", "layout", "import sys; print(id(sys.modules), id(sys))", CONSTANT),
        ("os.listdir and os.walk", "order", "import os; print(os.listdir(), [*os.walk('.')])", CONSTANT),
        ("SystemRandom by the device", "random", "print(open('/dev/urandom', 'rb').read(20))", STREAM),
        (
            "a terminal's size",
            "identity",
            "import fcntl, os, pty, struct, termios; s = pty.openpty()[1]\n"
            "fcntl.ioctl(s, termios.TIOCSWINSZ, struct.pack('4H', os.getpid() % 50 + 1, 7, 1, 1))\n"
            "print(os.get_terminal_size(s))",
            CONSTANT,
        ),
        ("cpu_count", "identity", "import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))", CONSTANT),
        (
            "a thread that reads the device of another",
            "random",
            "import os, threading as t; f = os.open('/dev/urandom', 0)\n"
            "x = t.Thread(target=lambda: print(os.read(f, 9))); x.start(); x.join(); print(os.read(f, 9))",
            STREAM,
        ),
        ("platform", "identity", "import platform; print(platform.uname())", CONSTANT),
    ):
        yield Case(f"python: {name}", source, (python, "-S", "-c", snippet), kind)
    snippet = "import os, random\nif not os.fork(): print(random.random(), os.urandom(4), flush=True); os._exit(0)\n"
    yield Case("python: a forked child", "random", (python, "-c", f"{snippet}os.wait(); print(os.urandom(4))"), STREAM)
    threads = (
        "import os, threading as t\nfor _ in range(3):\n x = t.Thread(target=lambda: print(os.urandom(4)))\n"
        " x.start(); x.join()"
    )
    yield Case("python: threads", "random", (python, "-c", threads), STREAM)
    yield Case(
        "perl: readdir, telldir and seekdir",
        "order",
        ("perl", "-e", "opendir D, '.'; readdir D for 1..40; $t = telldir D; $a = readdir D; @r = readdir D;"
         " seekdir D, $t; $b = readdir D; print \"$a $b @r\""),
        needs="perl",
    )  # fmt: skip
    script = (
        "const os = require('os'), crypto = require('crypto'); console.log(os.cpus().length, os.hostname(),"
        " Math.random(), crypto.randomBytes(4), os.uptime(), os.loadavg(), os.release())"
    )
    yield Case("node: random numbers and the machine", "random", ("node", "-e", script), STREAM, needs="node")
    for program in ("world-static-32", "world-32", "world"):
        emulator, of = ("qemu-i386", "32-bit program") if "32" in program else ("qemu-x86_64", "program")
        kind = "static" if "static" in program else "dynamic"
        for word, rule in (("layout", "layout"), ("at-random", "random"), ("uname", "identity")):
            yield Case(
                f"qemu-user of a {kind} {of}: {word}",
                rule,
                (emulator, f"{{programs}}/{program}", "plain", word),
                WORDS[word][1],
                needs=emulator,
            )
    yield Case("uuidgen", "random", ("/bin/sh", "-c", "uuidgen; uuidgen"), STREAM, needs="uuidgen")
    image = "f=$(mktemp ./XXXXXXXX); truncate -s 4M $f; /sbin/mke2fs -q -F $f; sha256sum < $f; rm $f"
    yield Case("an image of mke2fs", "random", ("/bin/sh", "-c", image), STREAM, needs="/sbin/mke2fs")
    keys = "print rand(), ' ', join(' ', keys %{{map { $_ => 1 } 1..40}})"
    yield Case("perl: rand and the order of keys", "random", ("perl", "-e", keys), STREAM, needs="perl")


CASES: tuple[Case, ...] = (*_c_cases(), *_tool_cases())

BUILDS = {"world": [], "world-static": ["-static"], "world-32": ["-m32"], "world-static-32": ["-m32", "-static"]}


def build(directory: Path) -> None:
    """Build every program into ``directory``. Raises CalledProcessError where a compiler fails."""
    source = Path(__file__).resolve().parent / "sources" / "world.c"
    for name, options in BUILDS.items():
        subprocess.run(["gcc", "-O1", "-pthread", *options, str(source), "-o", str(directory / name)], check=True)


def furnish(directory: Path, order: int) -> None:
    """Make the files of NAMES, in an order of its own for each number."""
    directory.mkdir()
    names = list(NAMES)
    random.Random(order).shuffle(names)
    for name in names:
        if name.startswith("ffff"):
            (directory / name).mkdir()
        elif name.startswith("fff"):
            (directory / name).symlink_to("nowhere")
        else:
            (directory / name).write_text("content\n")


# Runs in the session: one program a line, so that the whole table costs one session.
_DRIVER = """
import json, subprocess, sys
environment = {"PATH": "/usr/bin:/bin", "TZ": "UTC0", "LC_ALL": "C"}
for line in sys.stdin:
    argv = json.loads(line)
    result = subprocess.run(argv, env=environment, cwd=sys.argv[1], capture_output=True, timeout=120)
    print(json.dumps([*map(ascii, (result.stdout, result.stderr)), result.returncode]), flush=True)
"""


def run(
    cases: Sequence[Case], programs: Path, engine: str, here: Path, policy: str = "strict", *, seed: str = ""
) -> tuple[dict[str, str], Audit]:
    """Name -> what each case printed, and the session's record. Raises ValueError where a program failed."""
    session = Session(EPOCH, policy, engine, seed=seed)
    driver = session.run(
        driver_command(here),
        input=given(cases, programs, here),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return printed(cases, driver.stdout), session.audit


def driver_command(here: Path) -> list[str]:
    """What runs the cases that it reads, one after the other."""
    return [sys.executable, "-I", "-S", "-c", _DRIVER, str(here)]


def given(cases: Sequence[Case], programs: Path, here: Path) -> str:
    """What the driver reads."""
    places = {"{programs}": str(programs), "{here}": str(here)}
    lines = []
    for case in cases:
        if case.missing():
            continue
        words = list(case.argv)
        for name, place in places.items():
            words = [word.replace(name, place) for word in words]
        lines.append(json.dumps(words))
    return "\n".join(lines)


def printed(cases: Sequence[Case], output: str) -> dict[str, str]:
    """What each case printed, from all that the driver did. Raises ValueError where a program failed."""
    found = {}
    chosen = [case for case in cases if not case.missing()]
    for case, line in zip(chosen, output.splitlines(), strict=True):
        out, err, code = json.loads(line)
        if code or len(out) < 4:
            raise ValueError(f"{case.name}: exit {code}, {out} {err}")
        found[case.name] = out
    return found


def main() -> None:
    found, _ = run(CASES, Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    for name, out in found.items():
        print(json.dumps({"name": name, "printed": out}))


if __name__ == "__main__":
    main()
