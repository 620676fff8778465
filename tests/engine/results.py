"""One command inside a session, or outside of any: what the tests of waits, file times and process trees compare."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from detbuild import Session
from detbuild.audit import Audit
from detbuild.engine import select

EPOCH = 1_300_000_000  # Sun Mar 13 07:06:40 2011 UTC
ENGINES = [
    pytest.param(
        candidate.name,
        marks=pytest.mark.skipif(not candidate.usable, reason=f"no engine {candidate.name}: {candidate.reason}"),
    )
    for candidate in select.candidates()
]
USABLE = [candidate.name for candidate in select.candidates() if candidate.usable]
SOURCES = Path(__file__).resolve().parent / "sources"
TRIES = 3
Measured = TypeVar("Measured")
READY = os.environ.get("DETBUILD_TESTS_PROGRAMS", "")  # where programs lie that are built already
PYTHON = os.path.realpath(sys.executable)

# How a C program may be built: its name, and the compiler's flags.
KINDS: dict[str, tuple[str, ...]] = {
    "dynamic": (),
    "static": ("-static",),
    "dynamic32": ("-m32",),
    "static32": ("-m32", "-static"),
}

_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TZ": "UTC0", "LC_ALL": "C"}


@dataclass(frozen=True)
class Result:
    """What a command said and did; ``seconds`` by the monotonic clock, an empty audit for one that ran outside."""

    code: int
    out: str
    err: str
    seconds: float
    audit: Audit = field(default_factory=Audit, compare=False)

    @property
    def said(self) -> tuple[int, str, str]:
        return self.code, self.out, self.err

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(
    engine: str,
    *command: str | Path,
    cwd: Path | None = None,
    input: str | None = None,
    timeout: float = 60,
    policy: str = "time",
    **variables: str,
) -> Result:
    """A command in a session at EPOCH under ``engine``, or outside where that is "". ``variables`` are environment."""
    words = [str(word) for word in command]
    environment = {**_ENVIRONMENT, **variables}
    start = time.monotonic()
    session = Session(EPOCH, policy, engine) if engine else None
    runner = session.run if session else subprocess.run
    result: subprocess.CompletedProcess[str] = runner(
        words, cwd=cwd, env=environment, input=input, capture_output=True, text=True, timeout=timeout, check=False
    )
    seconds = time.monotonic() - start
    return Result(result.returncode, result.stdout, result.stderr, seconds, session.audit if session else Audit())


def timely(measure: Callable[[], Measured], holds: Callable[[Measured], object]) -> Measured:
    """The first of a few measurements that ``holds``, else the last: a busy machine may give one no turn in time."""
    for _ in range(TRIES - 1):
        found = measure()
        if holds(found):
            return found
    return measure()


@dataclass
class Processors:
    """What this process's children took of the processors, in seconds, and how much of them all was idle meanwhile."""

    seconds: float = 0
    idle: float = 1

    @property
    def were_all_taken(self) -> bool:
        return self.idle < 0.05


@contextlib.contextmanager
def measured_processors() -> Iterator[Processors]:
    """The measure is filled in at the end; children count when they have ended and been waited for."""

    def ticks() -> tuple[float, int, int]:
        times = os.times()
        user, nice, system, idle, waiting, *others = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        )
        free = idle + waiting
        return times.children_user + times.children_system, free, user + nice + system + free + sum(others)

    found, before = Processors(), ticks()
    yield found
    spent, free, total = (after - start for after, start in zip(ticks(), before, strict=True))
    found.seconds, found.idle = spent, free / max(total, 1)


Nobody = Callable[..., subprocess.CompletedProcess[str]]

# ENGINE POLICY COMMAND...: what it said, and the audit, as one JSON line.
_IN_A_SESSION = f"""
import json, sys
from detbuild import Session
session = Session({EPOCH}, sys.argv[2], sys.argv[1])
result = session.run(sys.argv[3:], capture_output=True, text=True, timeout=120)
print(json.dumps([result.returncode, result.stdout, result.stderr, session.audit.to_dict()]))
"""


def run_as_nobody(as_nobody: Nobody, engine: str, *command: str | Path, policy: str = "time") -> Result:
    """As ``run``, by the user nobody, with the fixture of that name."""
    start = time.monotonic()
    result = as_nobody("-c", _IN_A_SESSION, engine, policy, *map(str, command))
    assert not result.stderr
    code, out, err, audit = json.loads(result.stdout)
    return Result(code, out, err, time.monotonic() - start, Audit.from_dict(audit))


@cache
def _built() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="detbuild-programs-")
    atexit.register(directory.cleanup)
    os.chmod(directory.name, 0o755)
    return Path(directory.name)


@cache
def build(name: str, kind: str = "dynamic", *flags: str) -> Path:
    """A program from sources/NAME.c, built once, where every user can run it. Raises CalledProcessError."""
    file = "-".join([name, kind, *(flag.strip("-") for flag in flags)])
    if READY and (ready := Path(READY, file)).exists():
        return ready
    output = _built() / file
    command: Sequence[str] = ["gcc", "-O1", "-Wall", "-pthread", *KINDS[kind], *flags, f"{SOURCES / name}.c", "-o"]
    subprocess.run([*command, str(output)], check=True)
    output.chmod(0o755)
    return output


@cache
def build_go(name: str) -> Path:
    """A program from sources/NAME.go, as ``build``."""
    output = _built() / f"{name}-go"
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off", "GOCACHE": str(_built() / "go-cache")}
    subprocess.run(["go", "build", "-o", str(output), f"{SOURCES / name}.go"], check=True, env=environment)
    return output


def gaps(result: Result) -> list[str]:
    """What the engine itself says that it failed to hold."""
    return [f"{gap.kind}: {gap.detail}" for gap in result.audit.gaps]


def running(program: Path) -> list[int]:
    """The processes that run a program now."""
    pids = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/exe") == str(program):
                pids.append(int(name))
    return pids
