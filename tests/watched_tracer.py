"""The command `detbuild` with a tracer that is watched, for the measurements: counts, profiles, or keeps no record.

    python tests/watched_tracer.py MODE FILE run --engine tracer --epoch SECONDS -- COMMAND

"stops": FILE gets the number of stops by kind, as JSON. "profile": FILE gets where the tracer's time went, as text.
Both slow the tracer down, so what is timed runs without. "unrecorded": no read enters the audit. "plain": as ever.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from detbuild.cli.main import main
from detbuild.engine.filter import decode
from detbuild.engine.tracee import Thread
from detbuild.engine.tracer import Tracer
from detbuild.linux import ptrace

SHOWN = 40  # functions of a profile
EVENTS = {
    ptrace.EVENT_FORK: "fork",
    ptrace.EVENT_VFORK: "vfork",
    ptrace.EVENT_CLONE: "clone",
    ptrace.EVENT_EXEC: "exec",
    ptrace.EVENT_STOP: "first stop, or group stop",
}


def kind(tracer: Tracer, tid: int, status: int) -> str:
    """What a wait told: a system call by its name, or the kernel's own event."""
    if not os.WIFSTOPPED(status):
        return "end"
    event, sig = status >> 16, os.WSTOPSIG(status)
    if event == ptrace.EVENT_SECCOMP:
        try:
            return decode(ptrace.geteventmsg(tid), tracer.rules)[1].call
        except ProcessLookupError:
            return "a call of a killed thread"
    if event:
        return EVENTS[event]
    if sig == signal.SIGTRAP | ptrace.SYSCALL_STOP:
        return "a call's end"
    return "filter added" if sig == signal.SIGTRAP else "signal"


def count_stops(file: Path) -> None:
    serve, waited = Tracer.serve, Tracer._next
    kinds: Counter[str] = Counter()

    def counted(self: Tracer) -> tuple[int, int]:
        tid, status = waited(self)
        kinds[kind(self, tid, status)] += 1
        return tid, status

    def served(self: Tracer) -> None:
        serve(self)
        file.write_text(json.dumps(kinds))

    Tracer._next, Tracer.serve = counted, served  # type: ignore[method-assign]


def profile(file: Path) -> None:
    import cProfile  # what is timed must not wait for it
    import pstats

    serve = Tracer.serve

    def served(self: Tracer) -> None:
        profiler = cProfile.Profile()
        profiler.runcall(serve, self)
        with file.open("w") as text:
            pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(SHOWN)

    Tracer.serve = served  # type: ignore[method-assign]


def keep_no_record(_file: Path) -> None:
    def uncounted(self: Tracer, thread: Thread, call: str, outcome: str) -> None:
        pass

    Tracer.count = uncounted  # type: ignore[method-assign]


def leave_alone(_file: Path) -> None:
    pass


MODES = {"stops": count_stops, "profile": profile, "unrecorded": keep_no_record, "plain": leave_alone}


def run(mode: str, file: str, *arguments: str) -> int:
    """The exit code of the command `detbuild` with these arguments."""
    MODES[mode](Path(file))
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
