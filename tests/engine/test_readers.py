"""The keys that BPF counts under: each stands for a program, its arguments and those that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from detbuild.audit import TASK, Audit, Gap, Read
from detbuild.bpf import layout
from detbuild.bpf.layout import Flag
from detbuild.daemon import loader
from detbuild.engine import lineage, readers
from detbuild.engine.lineage import CUT, DEPTH
from detbuild.engine.readers import Readers
from detbuild.linux import proc

FORKED, EXECUTED = Flag(0), Flag.EXECUTED


@pytest.fixture
def table() -> Readers:
    """Of a task, which this process plays."""
    return Readers(os.getpid(), spared=True)


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def ran(table: Readers, former: int, line: str, flags: Flag = FORKED) -> int:
    words = line.split()
    return table.executing(1, former, flags, f"/bin/{words[0]}", words)


def record(table: Readers, *keys: int) -> Audit:
    audit = Audit()
    for key in keys:
        table.count(audit, key, "time", "fixed")
    return audit


def row(table: Readers, key: int) -> Read:
    (read,) = record(table, key).reads
    return read


def test_a_child_names_those_that_started_it(table: Readers) -> None:
    make = ran(table, 0, "make -j2 all")
    shell = ran(table, make, "sh -c x")
    date = ran(table, shell, "date +%s")
    assert row(table, date) == Read("/bin/date", "time", "fixed", "date", "+%s", ("sh", "make"))
    assert table.program(date) == "/bin/date"


def test_what_takes_the_place_of_a_program_has_its_parents(table: Readers) -> None:
    shell = ran(table, ran(table, 0, "make"), "sh -c x")
    assert row(table, ran(table, shell, "date", EXECUTED)).parents == ("make",)
    assert row(table, ran(table, shell, "date", FORKED)).parents == ("sh", "make")


def test_the_same_again_has_the_same_key_and_another_line_or_parent_another_one(table: Readers) -> None:
    make, shell = ran(table, 0, "make"), ran(table, 0, "sh")
    one = ran(table, make, "date -u")
    assert ran(table, make, "date -u") == one
    assert len({one, ran(table, make, "date"), ran(table, shell, "date -u"), make, shell, 0}) == 6


def test_lines_that_the_record_cuts_to_the_same_words_have_one_key(table: Readers) -> None:
    start = "cc " + "-Wall " * 50
    assert ran(table, 0, start + "-o a") == ran(table, 0, start + "-o b")


def test_a_deep_chain_is_cut_as_the_tracer_cuts_it(table: Readers) -> None:
    key = 0
    for number in range(DEPTH + 5):
        key = ran(table, key, f"p{number}")
        assert len(row(table, key).parents) == min(number, DEPTH + 1)
    assert row(table, key).parents == (*(f"p{number}" for number in range(DEPTH + 3, 3, -1)), CUT)


def test_a_task_is_in_no_chain_and_its_own_reads_are_the_tasks(table: Readers) -> None:
    assert row(table, ran(table, 0, "date")).parents == ()
    own = row(table, 0)
    assert (own.program, own.name, own.parents) == (proc.program(os.getpid()), TASK, ())
    assert own.arguments == lineage.arguments(proc.command_line(os.getpid()))


def test_the_opener_of_a_session_of_its_own_is_its_childrens_parent(child: int) -> None:
    table = Readers(os.getpid(), spared=False)
    own = row(table, 0)
    assert own.name == lineage.name(os.path.realpath(sys.executable), proc.command_line(os.getpid()))
    assert row(table, table.executing(child, 0, FORKED, "/bin/date", ["date"])).parents == (own.name,)


def test_what_the_opener_itself_becomes_has_no_parent() -> None:
    table = Readers(os.getpid(), spared=False)
    found = []

    def execute() -> None:
        found.append(table.executing(threading.get_native_id(), 0, FORKED, "/bin/date", ["date"]))

    thread = threading.Thread(target=execute)
    thread.start()
    thread.join()
    execute()
    assert [row(table, key).parents for key in found] == [(), ()]
    assert row(table, ran(table, found[0], "sh", EXECUTED)).parents == ()


def test_a_program_that_nobody_could_look_at_is_a_question_mark(table: Readers) -> None:
    key = table.unknown(1, ran(table, 0, "make"), FORKED, "a program that /bin/make executed")
    assert row(table, key) == Read("a program that /bin/make executed", "time", "fixed", "?", "", ("make",))
    assert row(table, ran(table, key, "date")).parents == ("?", "make")


def test_the_number_in_a_task_scripts_name_is_left_out(table: Readers) -> None:
    script = table.executing(1, 0, FORKED, "/bin/sh", ["/bin/sh", "/t/run.do_compile.4711", "x"])
    assert row(table, script).name == "run.do_compile"
    assert row(table, ran(table, script, "make")).parents == ("run.do_compile",)


def test_with_many_readers_arguments_are_left_out_then_parents_and_the_record_says_of_how_many_reads(
    table: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ran(table, 0, "make")
    whole = [ran(table, make, f"date {number}") for number in range(3)]
    monkeypatch.setattr(readers, "WHOLE", make + 4)
    monkeypatch.setattr(readers, "WITH_PARENTS", make + 6)
    assert [ran(table, make, f"date {number}") for number in range(3)] == whole
    bare = ran(table, make, "date")
    short = [ran(table, make, f"date {number}") for number in range(3, 9)]
    assert len({*short, bare}) == 2
    assert record(table, bare).merged == {}
    audit = record(table, *short, bare)
    assert audit.reads == {Read("/bin/date", "time", "fixed", "date", "", ("make",)): 7}
    assert audit.merged == {"arguments": 6}
    assert ran(table, make, "date 9") == short[0]  # what is known already is told as well as before
    alone = [ran(table, make, "sh -c x"), ran(table, make, "sh"), ran(table, ran(table, make, "sh"), "sh")]
    audit = record(table, *alone)
    assert audit.reads == {Read("/bin/sh", "time", "fixed"): 3}
    assert audit.merged == {"arguments": 1, "parents": 3}
    child = ran(table, alone[0], "date 9")
    assert row(table, child) == Read("/bin/date", "time", "fixed")


def test_programs_without_a_row_are_a_gap_once_they_read(table: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ran(table, 0, "make")
    monkeypatch.setattr(readers, "MOST", known + 1)
    other = ran(table, known, "date")
    assert table.program(other) == "?"
    assert ran(table, 0, "make") == known
    audit = Audit()
    table.count(audit, other, "time", "fixed", 5)
    assert audit.gaps == {Gap(*layout.GAPS[layout.Gap.COUNTS_FULL]): 5}
    assert audit.merged == {"arguments": 5, "parents": 5}
    assert audit.reads == {Read("?", "time", "fixed", "?"): 5}


def test_bpf_has_a_row_for_two_sources_of_all_that_have_parents_and_for_programs_beyond() -> None:
    rows = loader._COUNTS // loader._SHARES
    assert readers.WHOLE < readers.WITH_PARENTS
    assert rows - 2 * readers.WITH_PARENTS > 4000
    assert rows < readers.MOST
