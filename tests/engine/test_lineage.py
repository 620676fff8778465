"""Whose a read is: the record names the program, its arguments and those that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild.audit import Audit, Read
from detbuild.engine import lineage
from detbuild.engine.lineage import CUT, DEPTH, LONGEST
from detbuild.engine.tracee import Process
from detbuild.linux import proc
from detbuild.programs import DEFAULT
from detbuild.session import Session

EPOCH = 1_300_000_000


def audit(*command: str, cwd: Path | None = None) -> Audit:
    session = Session(EPOCH, engine="tracer")
    session.run(command, check=True, capture_output=True, cwd=cwd, timeout=120)
    assert not session.audit.gaps
    return session.audit


def of(record: Audit, name: str) -> list[Read]:
    return sorted({read for read in record.reads if read.name == name})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_read_names_the_programs_up_to_the_command(tmp_path: Path) -> None:
    write(tmp_path / "mkversion.sh", '#!/bin/sh\ndate "$@"\ntrue\n')
    (tmp_path / "Makefile").write_text("all:\n\t@./mkversion.sh -u '+%s a'\n\t@true\n")
    (read,) = of(audit("make", "-s", cwd=tmp_path), "date")
    assert read.arguments == "-u '+%s a'"
    assert [name for name in read.parents if name not in ("sh", "dash", "bash")] == ["mkversion.sh", "make"]
    assert read.parents[0] == "mkversion.sh"
    assert read.chain.startswith("date <- mkversion.sh <- ")


def test_a_subshell_is_no_program_of_its_own(tmp_path: Path) -> None:
    script = write(tmp_path / "run.sh", "#!/bin/bash\n( ( printf '%(%s)T' -1; : ) ; : )\n")
    record = audit(str(script), "x")
    assert {read.program for read in record.reads} == {os.path.realpath("/bin/bash")}
    assert {read[3:] for read in record.reads} == {("run.sh", f"{script} x", ())}


def test_a_forked_child_whose_parent_has_ended_keeps_its_name(tmp_path: Path) -> None:
    script = write(
        tmp_path / "late.sh",
        "#!/bin/bash\n(while kill -0 $$; do sleep 0.01; done; printf '%(%s)T' -1; date > done; :) 2> /dev/null &\n",
    )
    record = audit("sh", "-c", f"{script} y; while ! [ -s done ]; do sleep 0.01; done", cwd=tmp_path)
    assert {read.arguments for read in of(record, "late.sh")} == {f"{script} y"}
    assert of(record, "date")[0].parents[0] == "late.sh"


def test_a_program_that_replaced_another_has_its_own_name_and_the_same_parent(tmp_path: Path) -> None:
    script = write(tmp_path / "first.sh", "#!/bin/sh\nexec date +%s\n")
    (read,) = of(audit("sh", "-c", f"{script}; :"), "date")
    assert (read.arguments, len(read.parents)) == ("+%s", 1)
    assert "first.sh" not in read.parents


def test_long_arguments_are_cut_and_say_so() -> None:
    (read,) = of(audit("date", "-d", "now" + " " * 2 * LONGEST), "date")
    assert len(read.arguments) == LONGEST
    assert read.arguments.startswith("-d 'now ")
    assert read.arguments.endswith(CUT)


def test_a_deep_chain_is_cut_and_says_so() -> None:
    process = Process("/bin/top", DEFAULT, executed=True)
    for number in range(DEPTH + 5):
        process = Process(f"/bin/p{number}", DEFAULT, process, executed=True)
    read = lineage.read(process, "time", "fixed")
    assert read.name == f"p{DEPTH + 4}"
    assert read.parents == (*(f"p{number}" for number in range(DEPTH + 3, 3, -1)), CUT)


def test_the_process_that_opens_a_session_for_its_children_is_in_no_chain() -> None:
    task = Process("/usr/bin/python3", DEFAULT, spared=True)
    child = Process("/usr/bin/python3", DEFAULT, task)
    program = Process("/bin/date", DEFAULT, child, executed=True)
    assert lineage.read(program, "time", "fixed") == Read("/bin/date", "time", "fixed", "date")


def test_the_number_in_a_task_scripts_name_is_left_out(tmp_path: Path) -> None:
    script = write(tmp_path / "run.do_compile.4711", "#!/bin/sh\ndate\n:\n")
    (read,) = of(audit("sh", "-c", f"{script}; :"), "date")
    assert read.parents[0] == "run.do_compile"


def test_arguments_are_read_once_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def command_line(pid: int) -> list[str]:
        asked.append(pid)
        return ["/bin/x", "1"]

    monkeypatch.setattr(proc, "command_line", command_line)
    process = Process("/bin/x", DEFAULT, executed=True, pid=7)
    forked = Process("/bin/x", DEFAULT, process, pid=8)
    assert lineage.words(process) == ["/bin/x", "1"]
    reads = {lineage.read(one, source, "fixed") for one in (process, forked) for source in ("time", "gettimeofday")}
    assert {(read.name, read.arguments) for read in reads} == {("x", "1")}
    assert asked == [7]


def test_bytes_that_are_no_text_go_through_the_record(tmp_path: Path) -> None:
    script = "import os, sys, time; time.time(); os.execv('/bin/date', [b'date', b'+\\xff%s'])"
    file = tmp_path / "audit.json"
    subprocess.run(
        [sys.executable, "-m", "detbuild", "run", "--epoch", str(EPOCH), "--engine", "tracer", "--audit", str(file)]
        + ["--", sys.executable, "-c", script],
        check=True,
        capture_output=True,
    )
    (read,) = of(Audit.from_json(file.read_text()), "date")
    assert os.fsencode(read.arguments) == b"'+\xff%s'"
