"""What is claimed of a session's record: under the engine it has the rows that it has under the tracer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hand import EPOCH, PLACE, State

from detbuild import Session
from detbuild.audit import BUILD_PATH, HEAP_KEY, Read


def _rows(engine: str, command: list[str], place: Path, policy: str) -> list[Read]:
    within = Session(EPOCH, policy, engine)
    within.run(command, check=True, capture_output=True, cwd=place, timeout=250)
    assert not within.audit.gaps, (engine, dict(within.audit.gaps))
    return sorted(within.audit.reads)


def _both(name: str, files: dict[str, str], *command: str, policy: str = "time") -> list[Read]:
    """What both engines have on record of a command, which runs in a directory of its own."""
    found = []
    for engine in ("tracer", "ebpf"):
        place = PLACE / name
        place.mkdir()
        for file, text in files.items():
            (place / file).write_text(text)
            (place / file).chmod(0o755)
        found.append(_rows(engine, list(command), place, policy))
        shutil.rmtree(place)
    assert found[1] == found[0], found
    return found[1]


def a_record_names_arguments_and_parents_as_the_tracers_does(state: State) -> None:
    """Of a call that BPF counts, and of one that the supervisor answers."""
    files = {
        "Makefile": "all:\n\t@./mkversion.sh -u '+%s a'\n\t@true\n",
        "mkversion.sh": "#!/bin/sh\ndate \"$@\"\nperl -e 'print time' x\nexec date\n",
    }
    rows = _both("named", files, "make", "-s")
    date, perl = os.path.realpath("/usr/bin/date"), os.path.realpath("/usr/bin/perl")
    clock, parents = ("clock_gettime", "fixed", "date"), ("mkversion.sh", "make")
    assert Read(date, *clock, "-u '+%s a'", parents) in rows, rows
    assert Read(perl, "time", "fixed", "perl", "-e 'print time' x", parents) in rows, rows
    assert Read(date, *clock, "", ("make",)) in rows, rows


def a_forked_child_whose_parent_has_ended_keeps_its_name_on_record(state: State) -> None:
    late = "#!/bin/bash\n(while kill -0 $$; do sleep 0.1; done; perl -e 'print time'; date > done; :) 2> /dev/null &\n"
    wait = "./late.sh y; while ! [ -s done ]; do sleep 0.1; done"
    rows = _both("late", {"late.sh": late}, "sh", "-c", wait)
    assert {(read.name, read.parents[0]) for read in rows if read.parents} >= {("date", "late.sh"), ("perl", "late.sh")}


def a_build_path_and_the_key_of_malloc_are_on_record_as_under_the_tracer(state: State) -> None:
    """Of a program that takes one random number, of one that takes two, and of one that is told where it is."""
    files = {"all.sh": f"#!/bin/sh\necho x | sed 's|x|{PLACE}/place/y|'; mktemp -u > /dev/null; true\n"}
    rows = _both("place", files, "./all.sh", policy="observe")
    found = {(read.name, read.source) for read in rows if read.outcome == "leaked"}
    assert {("sed", BUILD_PATH), ("sed", HEAP_KEY), ("mktemp", HEAP_KEY), ("mktemp", "getrandom")} <= found, rows
