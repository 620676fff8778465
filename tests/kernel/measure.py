"""Runs inside the virtual machine: SHARE REPOSITORY INPUTS RUNS SESSIONS PACKAGE SCRIPT KIND...

What the engine costs, builds of PACKAGE by SCRIPT among it, into SHARE/measured.json.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import inside

ATTACHED = 12  # sessions opened and closed one after the other, as tasks do it
ROWS = 40  # of each open session: kinds of reads

# /run is memory: the root directory is a slow share of another machine's, whose stat(2) would hide the engine's part.
CALLS = {"clock_gettime": "SYS_clock_gettime, 0, &t", "stat": 'SYS_stat, "/run", &s', "getpid": "SYS_getpid"}
COUNT = 20_000
ROUNDS = 5

ONE_FILE = "make -s -C src lapi.o"  # of lua: as short as a task may be
# Name -> engine and policy of a build's session.
KINDS = {
    "none": ("", ""),
    "ebpf": ("ebpf", "time"),
    "ebpf, strict": ("ebpf", "strict"),
    "tracer": ("tracer", "time"),
    "tracer, strict": ("tracer", "strict"),
}

LOOP = """\
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void) {
  struct timespec before, after, t; struct stat s; (void)t; (void)s;
  clock_gettime(CLOCK_MONOTONIC, &before);
  for (int i = 0; i < %d; i++) syscall(%s);
  clock_gettime(CLOCK_MONOTONIC, &after);
  printf("%%.1f\\n", ((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) / %d);
  return 0;
}
"""


def loops() -> dict[str, float]:
    """Nanoseconds a call, outside any session: the best of some rounds."""
    found = {}
    for name, call in CALLS.items():
        program = inside.PLACE / f"loop-{name}"
        if not program.exists():
            source = program.with_suffix(".c")
            source.write_text(LOOP % (COUNT, call, COUNT))
            subprocess.run(["gcc", "-O2", "-w", "-o", program, source], check=True)
        runs = [subprocess.run([program], capture_output=True, text=True, check=True) for _ in range(ROUNDS)]
        found[name] = min(float(run.stdout) for run in runs)
    return found


def build(sources: Path, script: str, engine: str = "", policy: str = "") -> float:
    """Seconds of one build of a fresh tree, a session's opening and closing included."""
    from detbuild import Session

    [archive] = sources.glob("*.orig.tar.*")
    place = inside.PLACE / "build"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    subprocess.run(["tar", "-xf", archive, "--strip-components=1", "-C", place], check=True)
    command = ["sh", "-c", script]
    run = Session(inside.EPOCH, policy, engine).run if engine else subprocess.run
    start = time.perf_counter()
    run(command, cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def attached() -> list[float]:
    """Seconds to open and to close a session of a forked child's own, in which one program reads the clock."""
    from detbuild.session import attach

    found = []
    for _ in range(ATTACHED):
        told = os.pipe()
        if os.fork() == 0:
            start = time.perf_counter()
            session = attach(inside.EPOCH, engine="ebpf")
            opened = time.perf_counter() - start
            subprocess.run(["date"], stdout=subprocess.DEVNULL, check=True)
            start = time.perf_counter()
            session.close()
            os.write(told[1], str(opened + time.perf_counter() - start).encode())
            os._exit(0)
        os.close(told[1])
        found.append(float(os.read(told[0], 99)))
        os.close(told[0])
        os.wait()
    return found


def held(count: int, daemon: Any) -> tuple[list[float], list[int]]:
    """Seconds in which the daemon counts and closes a session beside many; its bytes before, and while all are open."""
    from detbuild.bpf import layout
    from detbuild.daemon.config import Settings
    from detbuild.daemon.kernel import Kernel
    from detbuild.engine import detbuildd

    counts = Kernel.load(Settings())._maps["counts"]
    before, seconds = daemon.resident, []
    supervisor, openers = _waiting(), [_waiting() for _ in range(count)]
    peers = [detbuildd.connect() for _ in openers]
    for opener, peer in zip(openers, peers, strict=True):
        fds = [os.pidfd_open(opener), os.pidfd_open(supervisor)]
        terms = {"tid": opener, "epoch": inside.EPOCH, "policy": "time", "spare_root": True}
        number = detbuildd.ask(peer, "open", fds=fds, **terms)["session"]
        for program in range(ROWS):
            counts.put(layout.Count(program=program, session=number, source=1), ctypes.c_uint64(1))
        for fd in fds:
            os.close(fd)
    during = daemon.resident
    for peer in peers:
        start = time.perf_counter()
        reads = detbuildd.ask(peer, "counters")["reads"]
        detbuildd.ask(peer, "close")
        seconds.append(time.perf_counter() - start)
        assert len(reads) == ROWS, reads
        peer.close()
    for child in (*openers, supervisor):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return seconds, [before, during]


def _waiting() -> int:
    child = os.fork()
    if child == 0:
        signal.pause()
    return child


def main() -> None:
    share, repository, inputs = map(Path, sys.argv[1:4])
    runs, sessions = map(int, sys.argv[4:6])
    package, script, *kinds = sys.argv[6:]
    inside.settle(repository, inputs)
    from daemon import Daemon

    daemon = Daemon(share / "daemon.log")
    found: dict[str, Any] = {"kernel": os.uname().release, "calls": {"off before": loops()}}
    start = time.perf_counter()
    problem = daemon.start()
    assert not problem, problem
    found["start"] = time.perf_counter() - start
    found["calls"]["on"] = loops()
    _write(share, found)
    found["close beside others"], found["resident"] = held(sessions, daemon)
    _write(share, found)
    found["sessions"] = attached()
    found["one file"] = [build(inputs / "sources/lua5.4", ONE_FILE) for _ in range(3)]
    _write(share, found)
    found["builds"] = {name: [] for name in kinds}
    for _ in range(runs):
        for name in kinds:
            found["builds"][name].append(build(inputs / "sources" / package, script, *KINDS[name]))
            _write(share, found)
        kinds.reverse()  # who comes first finds other things in the caches
    problem = daemon.stop()
    assert not problem, problem
    found["calls"]["off after"] = loops()
    found["complete"] = True
    _write(share, found)


def _write(share: Path, found: dict[str, Any]) -> None:
    (share / "measured.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
