"""One table of claims about clocks in a session, for every engine.

``python3 clock_cases.py PROGRAMS ENGINE`` runs it anywhere with only the built programs, the library and Python,
and prints one JSON line a case: its name and what was wrong with it ("" if nothing). The name "" is the engine's gaps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detbuild import Session
from detbuild.audit import Audit

EPOCH = 1_300_000_000  # Sun Mar 13 07:06:40 2011 UTC
AFTER_2038 = 5_000_000_000

# What a case may expect, beside an exact output: see ``Outcome``.
FIXED, FIXED_TWICE, MONOTONIC, BOOTTIME, CPU = "<epoch>", "<epoch epoch>", "<monotonic>", "<boottime>", "<cpu>"

WALL = {"REALTIME": 0, "REALTIME_COARSE": 5, "REALTIME_ALARM": 8, "TAI": 11}
REAL = {
    "MONOTONIC": (1, MONOTONIC),
    "PROCESS_CPUTIME_ID": (2, CPU),
    "THREAD_CPUTIME_ID": (3, CPU),
    "MONOTONIC_COARSE": (6, MONOTONIC),
    "BOOTTIME": (7, BOOTTIME),
}


@dataclass(frozen=True)
class Case:
    """``argv`` may hold {programs}; ``needs`` names programs on PATH, or a mapping in brackets; ``stuffing`` is a
    number of environment entries of 128 bytes each."""

    name: str
    argv: tuple[str, ...]
    expected: str = FIXED
    epoch: int = EPOCH
    needs: tuple[str, ...] = ()
    stuffing: int = 0

    def missing(self) -> str:
        """What this machine lacks for the case, "" if nothing."""
        for need in self.needs:
            if need.startswith("[") and need not in Path("/proc/self/maps").read_text():
                return f"this kernel maps no {need}"
            if not need.startswith("[") and not shutil.which(need):
                return f"{need} is not installed"
        return ""


def _sources(prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and word of each wall clock that clocks.c reads."""
    for call in ("time", "gettimeofday", "adjtimex"):
        yield f"{prefix}{call}", f"{prefix}{call}"
    for clock, number in WALL.items():
        yield f"{prefix}clock_gettime of {clock}", f"{prefix}clock_gettime:{number}"
    yield f"{prefix}clock_adjtime", f"{prefix}clock_adjtime:0"


def _c_cases() -> Iterator[Case]:
    kinds = {
        "a dynamic C program": "dynamic",
        "a static C program": "static",
        "a dynamic 32-bit program": "dynamic32",
        "a static 32-bit program": "static32",
    }
    for kind, program in kinds.items():
        words = [*_sources(), *_sources("raw-")]
        if program.endswith("32"):
            words += [
                ("raw-clock_gettime64", "raw-clock_gettime64:0"),
                ("raw-clock_adjtime64", "raw-clock_adjtime64:0"),
            ]
        for name, word in words:
            yield Case(f"{kind}: {name} is the epoch", (f"{{programs}}/{program}", "plain", word))
        yield Case(f"{kind}: the time zone is none", (f"{{programs}}/{program}", "plain", "raw-zone"), "0 0\n")
        for name, (number, expected) in REAL.items():
            for word in (f"clock_gettime:{number}", f"raw-clock_gettime:{number}"):
                yield Case(
                    f"{kind}: {word.partition(':')[0]} of {name} stays real",
                    (f"{{programs}}/{program}", "plain", word),
                    expected,
                )
    for how, kind in {
        "fork": "a child forked without exec",
        "thread": "a thread",
        "vfork": "a child of vfork",
        "spawn": "a child of posix_spawn",
    }.items():
        for program in kinds.values():
            for word in ("time", "gettimeofday", "clock_gettime:0"):
                yield Case(f"{kind} of {program}: {word} is the epoch", (f"{{programs}}/{program}", how, word))

    for how, kind in {"execveat": "of its file", "memory": "of a file that has no name"}.items():
        for program in kinds.values():
            for word in ("time", "clock_gettime:0"):
                yield Case(
                    f"{program} executed by a descriptor {kind}: {word} is the epoch",
                    (f"{{programs}}/{program}", how, word),
                )


def _gate_cases() -> Iterator[Case]:
    for call in ("execve", "execveat"):
        for word in ("time", "clock_gettime:0"):
            yield Case(
                f"a program executed by {call} through the 32-bit gate: {word} is the epoch",
                ("{programs}/dynamic", f"gate-{call}", word),
            )
    words = ["time", "gettimeofday", "adjtimex", "clock_adjtime:0", "clock_adjtime64:0"]
    words += [f"clock_gettime{size}:{number}" for size in ("", "64") for number in WALL.values()]
    for word in words:
        yield Case(f"the 32-bit gate of a 64-bit program: {word}", ("{programs}/dynamic", "plain", f"gate-{word}"))
    yield Case(
        "the 32-bit gate of a 64-bit program: MONOTONIC stays real",
        ("{programs}/dynamic", "plain", "gate-clock_gettime64:1"),
        MONOTONIC,
    )
    for word in ("time", "gettimeofday"):
        yield Case(
            f"the vsyscall page: {word}", ("{programs}/dynamic", "plain", f"vsyscall-{word}"), needs=("[vsyscall]",)
        )
    for word in ("now", "thread", "time", "gettimeofday", *(f"clock_gettime:{number}" for number in WALL.values())):
        yield Case(f"a Go program: {word} is the epoch", ("{programs}/clocks-go", word))
    yield Case("a Go program: MONOTONIC stays real", ("{programs}/clocks-go", "clock_gettime:1"), MONOTONIC)


def _trouble_cases() -> Iterator[Case]:
    for program in ("dynamic", "dynamic32"):
        for word in ("time", "null", "read-only", "gettimeofday", "zone", "adjtimex"):
            yield Case(
                f"a bad pointer is the {program} program's own EFAULT: {word}",
                (f"{{programs}}/{program}", "plain", f"bad-{word}"),
                f"-1 EFAULT then {EPOCH} 0\n",
            )
        yield Case(
            f"a clock that does not exist is the {program} program's own EINVAL",
            (f"{{programs}}/{program}", "plain", "bad-clock"),
            f"-1 EINVAL then {EPOCH} 0\n",
        )
    for program in ("dynamic", "static", "dynamic32", "static32"):
        yield Case(
            f"a huge environment hides no vDSO: {program}",
            (f"{{programs}}/{program}", "plain", "clock_gettime:0"),
            stuffing=8000,
        )
    yield Case(
        "an epoch after 2038: time", ("{programs}/dynamic", "plain", "time"), f"{AFTER_2038} 0\n", epoch=AFTER_2038
    )
    yield Case(
        "an epoch after 2038 in a 32-bit program's 64-bit call",
        ("{programs}/dynamic32", "plain", "raw-clock_gettime64:0"),
        f"{AFTER_2038} 0\n",
        epoch=AFTER_2038,
    )
    yield Case("the epoch 0: time", ("{programs}/static", "plain", "raw-time"), "0 0\n", epoch=0)


def _shell(name: str, script: str, expected: str = FIXED, needs: tuple[str, ...] = ()) -> Case:
    return Case(name, ("/bin/sh", "-c", script), expected, needs=needs)


def _tool_cases() -> Iterator[Case]:
    python = os.path.realpath(sys.executable)
    yield _shell("date", "date +%s")
    yield _shell("a shell's background job", "date +%s & wait")
    yield _shell("a pipeline sees one time at both ends", "date +%s | { read -r a; echo $a $(date +%s); }", FIXED_TWICE)
    yield _shell("bash's printf", "bash -c \"printf '%(%s)T\\\\n' -1\"", needs=("bash",))
    yield _shell("bash's EPOCHSECONDS", "bash -c 'echo $EPOCHSECONDS'", needs=("bash",))
    yield _shell("perl's time", "perl -e 'print time'", needs=("perl",))
    yield _shell("perl's localtime", "perl -e 'print scalar gmtime'", "Sun Mar 13 07:06:40 2011", needs=("perl",))
    yield _shell("perl's forked child", "perl -e 'if (!fork) { print time; exit } wait'", needs=("perl",))
    yield _shell("gawk's systime", "gawk 'BEGIN { print systime() }'", needs=("gawk",))
    yield _shell("gawk's srand", "gawk 'BEGIN { srand(); print srand() }'", needs=("gawk",))
    yield _shell("a date in a makefile's recipe", "printf 'all:\\n\\t@date +%%s\\n' | make -f -", needs=("make",))
    yield _shell("a date in a makefile's variable", "printf 'X:=$(shell date +%%s)\\nall:;@echo $X' | make -f -",
                 needs=("make",))  # fmt: skip
    yield _shell("gcc's __DATE__ and __TIME__", "echo __DATE__ __TIME__ | gcc -E -P -",
                 '"Mar 13 2011" "07:06:40"\n', needs=("gcc",))  # fmt: skip
    snippets = {
        "python's time.time": "import time; print(int(time.time()))",
        "python's datetime": "from datetime import datetime as d, timezone as z; print(int(d.now(z.utc).timestamp()))",
        "python's os.fork": "import os, time\nif not os.fork(): print(int(time.time()), flush=True)\nelse: os.wait()",
        "python's threads": "import threading as t, time\nx = t.Thread(target=lambda: print(int(time.time())))\n"
        "x.start(); x.join()",
        "python's multiprocessing": "import multiprocessing as m, time\nc = m.get_context('fork')\n"
        "p = c.Process(target=lambda: print(int(time.time()), flush=True))\np.start(); p.join()",
        "python's subprocess": "import subprocess\nsubprocess.run(['date', '+%s'])",
    }
    for name, snippet in snippets.items():
        yield Case(name, (python, "-I", "-S", "-c", snippet))
    yield Case(
        "python's time.monotonic stays real",
        (python, "-I", "-S", "-c", "import time; print(time.monotonic())"),
        MONOTONIC,
    )


CASES: tuple[Case, ...] = (*_c_cases(), *_gate_cases(), *_trouble_cases(), *_tool_cases())


@dataclass(frozen=True)
class Outcome:
    """What one case printed, and between which moments: ``time.clock_gettime`` of each real clock, in seconds."""

    out: str
    err: str
    before: dict[int, float]
    after: dict[int, float]

    def problem(self, case: Case) -> str:
        """What is wrong with it, "" if nothing."""
        if self.err or not self._right(case, self.out.split()):
            return f"wanted {case.expected!r}, got {self.out!r} {self.err!r}"
        return ""

    def _right(self, case: Case, words: list[str]) -> bool:
        if case.expected == FIXED:
            return words[:1] == [str(case.epoch)]
        if case.expected == FIXED_TWICE:
            return words == [str(case.epoch)] * 2
        if case.expected == CPU:
            return bool(words) and int(words[0]) < 10
        if case.expected in REAL_CLOCKS:
            clock = REAL_CLOCKS[case.expected]
            # A coarse clock is a tick behind.
            return bool(words) and int(self.before[clock] - 1) <= float(words[0]) <= self.after[clock]
        return self.out == case.expected


REAL_CLOCKS = {MONOTONIC: time.CLOCK_MONOTONIC, BOOTTIME: time.CLOCK_BOOTTIME}

# Runs in the session: one program a line, so that a whole table costs one session an epoch.
_DRIVER = """
import json, subprocess, sys
for line in sys.stdin:
    argv, stuffing = json.loads(line)
    environment = {"PATH": "/usr/bin:/bin", "TZ": "UTC0", "LC_ALL": "C"}
    environment.update({f"STUFFING{number:05}": "x" * 112 for number in range(stuffing)})
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    print(json.dumps([result.stdout, result.stderr]), flush=True)
"""


def run(cases: Sequence[Case], programs: Path, engine: str) -> dict[str, str]:
    """Name -> problem of every case, and under "" what the engine itself says that it failed to hold."""
    problems: dict[str, str] = {}
    gaps: list[str] = []
    for epoch in sorted({case.epoch for case in cases}):
        chosen = [case for case in cases if case.epoch == epoch and not case.missing()]
        outcomes, audit = _session(chosen, programs, epoch, engine)
        problems |= {case.name: outcome.problem(case) for case, outcome in zip(chosen, outcomes, strict=True)}
        gaps += [f"{gap.kind}: {gap.detail}" for gap in audit.gaps]
    return {**problems, "": "; ".join(gaps)}


def _session(cases: Sequence[Case], programs: Path, epoch: int, engine: str) -> tuple[list[Outcome], Audit]:
    lines = [
        json.dumps([[word.replace("{programs}", str(programs)) for word in case.argv], case.stuffing]) for case in cases
    ]
    session = Session(epoch, engine=engine)
    before = {clock: time.clock_gettime(clock) for clock in REAL_CLOCKS.values()}
    driver = session.run(
        [sys.executable, "-I", "-S", "-c", _DRIVER],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        text=True,
        timeout=400,
        check=True,
    )
    after = {clock: time.clock_gettime(clock) for clock in REAL_CLOCKS.values()}
    results = [json.loads(line) for line in driver.stdout.splitlines()]
    return [Outcome(out, err, before, after) for out, err in results], session.audit


def main() -> None:
    for name, wrong in run(CASES, Path(sys.argv[1]), sys.argv[2]).items():
        print(json.dumps({"name": name, "problem": wrong}))


if __name__ == "__main__":
    main()
