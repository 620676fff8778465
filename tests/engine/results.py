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
from collections.abc import Callable, Sequence
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


Nobody = Callable[..., subprocess.CompletedProcess[str]]

# ENGINE COMMAND...: what it said, and the audit, as one JSON line.
_IN_A_SESSION = f"""
import json, sys
from detbuild import Session
session = Session({EPOCH}, engine=sys.argv[1])
result = session.run(sys.argv[2:], capture_output=True, text=True, timeout=120)
print(json.dumps([result.returncode, result.stdout, result.stderr, session.audit.to_dict()]))
"""


def run_as_nobody(as_nobody: Nobody, engine: str, *command: str | Path) -> Result:
    """As ``run``, by the user nobody, with the fixture of that name."""
    start = time.monotonic()
    result = as_nobody("-c", _IN_A_SESSION, engine, *map(str, command))
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
    output = _built() / "-".join([name, kind, *(flag.strip("-") for flag in flags)])
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
