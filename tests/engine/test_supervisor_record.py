"""A supervisor's record has the same rows as the tracer's: programs, arguments and parents."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from results import build
from supervised import EPOCH, run

from detbuild.audit import Audit, Read
from detbuild.engine.lineage import CUT, DEPTH, LONGEST
from detbuild.session import Session

SHELL = os.path.basename(os.path.realpath("/bin/sh"))
TIME = "perl -e 'syscall 201, 0'"  # time(2) itself: the double hides no vDSO


class Case(NamedTuple):
    """``files`` are scripts by name; ``rows`` is what has to be among the rows: names, and the first parents."""

    command: list[str]
    files: dict[str, str]
    rows: list[tuple[str, ...]]


def nested(depth: int) -> dict[str, str]:
    """Scripts that run each other, and the last of them a program that reads the time."""
    inner = {f"s{number}": f"#!/bin/sh\n./s{number + 1}\n:\n" for number in range(depth)}
    return {**inner, f"s{depth}": f"#!/bin/sh\n{TIME}\n:\n"}


CASES = {
    "a script that make runs": Case(
        ["make", "-s"],
        {"Makefile": "all:\n\t@./mkversion.sh x '+%s a'\n\t@true\n", "mkversion.sh": f'#!/bin/sh\n{TIME} "$@"\ntrue\n'},
        [("perl", "mkversion.sh", "make")],
    ),
    "the command itself": Case(["perl", "-e", "syscall 201, 0"], {}, [("perl",)]),
    "children that execute nothing": Case(
        ["./run.pl", "x"], {"run.pl": "#!/usr/bin/perl\nfork; fork; syscall 201, 0; wait; wait;\n"}, [("run.pl",)]
    ),
    "a child of a child that executes nothing": Case(["sh", "-c", f"( ( {TIME}; : ) ; : ); :"], {}, [("perl", SHELL)]),
    "a program that replaces another": Case(
        ["sh", "-c", "./first.sh; :"], {"first.sh": f"#!/bin/sh\nexec {TIME} 1\n"}, [("perl", SHELL)]
    ),
    "one that does so in a child": Case(["sh", "-c", f"(exec env {TIME}); :"], {}, [("perl", SHELL)]),
    "threads, vfork and spawn": Case(
        ["sh", "-c", "for how in plain fork thread vfork spawn; do ./clocks $how raw-time; done; :"],
        {},
        [("clocks", SHELL), ("clocks", "clocks", SHELL)],
    ),
    "long arguments": Case(
        ["sh", "-c", f"{TIME} {'x' * LONGEST} y; {TIME} '' 'a b' {'z ' * LONGEST}; :"], {}, [("perl", SHELL)]
    ),
    "a deep chain": Case(
        ["./s0"], nested(DEPTH + 3), [("perl", "s11", "s10", "s9", "s8", "s7", "s6", "s5", "s4", CUT)]
    ),
    "a task's script": Case(
        ["sh", "-c", "./run.do_compile.4711; :"],
        {"run.do_compile.4711": f"#!/bin/sh\n{TIME}\n:\n"},
        [("perl", "run.do_compile", SHELL)],
    ),
    "bytes that are no text": Case(
        ["perl", "-e", r"syscall 201, 0; exec 'perl', '-e', 'syscall 201, 0', qq(\xff)"],
        {},
        [("perl",)],
    ),
    "a program that goes by another name": Case(
        ["sh", "-c", "ln -sf $(command -v perl) odd; ./odd -e 'syscall 201, 0'; :"], {}, [("perl", SHELL)]
    ),
}


def rows(audit: Audit) -> list[Read]:
    return sorted(read for read in audit.reads if read.source == "time")


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_tracers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    shutil.copy(build("clocks"), "clocks")
    for file, text in case.files.items():
        Path(file).write_text(text)
        Path(file).chmod(0o755)
    session = Session(EPOCH, engine="tracer")
    session.run(case.command, check=True, capture_output=True, timeout=120)
    result = run(*case.command)
    assert (result.code, result.gaps) == (0, []), result.err
    assert rows(result.audit) == rows(session.audit)
    assert set(case.rows) <= {(read.name, *read.parents) for read in rows(result.audit)}
