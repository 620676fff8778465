"""Children whose first stop comes before their maker's event: the kernel tells the two in either order.

Which comes first is the scheduler's choice, so the tracer here waits for the child's before it is told the maker's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from results import EPOCH, PYTHON

from conftest import LIBRARY, wait_for
from detbuild.audit import Audit

CHILDREN_FIRST = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
from detbuild.cli.main import main
from detbuild.engine.tracer import Tracer
from detbuild.linux import ptrace

log, next_stop, serve = sys.argv.pop(1), Tracer._next, Tracer.serve
held, stopped, turned = [], set(), []

def children_first(self):
    if held:
        return held.pop()
    tid, status = next_stop(self)
    event = status >> 16
    if event == ptrace.EVENT_STOP:
        stopped.add(tid)
    elif event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
        child = ptrace.geteventmsg(tid)
        if child not in stopped:
            held.append((tid, status))
            turned.append(event)
            return os.waitpid(child, ptrace.WALL)
    return tid, status

def served(self):
    serve(self)
    with open(log, "w") as file:
        print(*sorted(set(turned)), file=file)

Tracer._next, Tracer.serve = children_first, served
sys.exit(main())
"""

# What runs -> its lines. Each makes children by one event: 1 is a fork, 2 a vfork, 3 a thread.
MAKERS: dict[str, tuple[list[str], list[str]]] = {
    "1": (["perl", "-e", "$| = 1; for (1 .. 7) { if (!fork) { print time, qq{\\n}; exit } wait }"], [str(EPOCH)] * 7),
    "1 2": (["sh", "-c", "for i in 1 2 3; do date +%s; done; (date +%s)"], [str(EPOCH)] * 4),
    "3": (
        [PYTHON, "-I", "-S", "-c", "import threading, time\nfor _ in range(3):\n"
         " t = threading.Thread(target=lambda: print(int(time.time()))); t.start(); t.join()"],
        [str(EPOCH)] * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("events", MAKERS)
def test_a_child_that_stops_before_its_makers_event_is_the_makers(events: str, tmp_path: Path) -> None:
    command, lines = MAKERS[events]
    log, audit = tmp_path / "log", tmp_path / "audit.json"
    terms = ["--engine", "tracer", "--epoch", str(EPOCH), "--audit", str(audit)]
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CHILDREN_FIRST, str(LIBRARY), str(log), "run", *terms, "--", *command],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stdout.splitlines(), result.stderr) == (0, lines, "")
    # The tracer outlives its session by a moment.
    assert wait_for(lambda: log.exists() and log.read_text())
    assert set(log.read_text().split()) <= set(events.split())
    record = Audit.from_json(audit.read_text())
    assert not record.gaps
    if command[0] == "sh":
        date, shell = (os.path.realpath(shutil.which(name) or "") for name in ("date", "sh"))
        assert {read.parents for read in record.reads if read.program == date} == {(os.path.basename(shell),)}
