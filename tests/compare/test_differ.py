from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from making import make_deb

from conftest import wait_for
from detbuild.compare.differ import DIFF_LINES, REPORT_BYTES, Differ, find_diffoscope
from detbuild.compare.limits import Limits
from detbuild.compare.model import Ending
from detbuild.compare.zygote import Zygote


@pytest.fixture
def real() -> str:
    program = find_diffoscope()
    assert program, "diffoscope is a dependency of this library"
    return program


def pair(tmp_path: Path, a: bytes, b: bytes, name: str = "f") -> tuple[Path, Path]:
    for tree, contents in (("a", a), ("b", b)):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / name).write_bytes(contents)
    return tmp_path / "a", tmp_path / "b"


Fake = Callable[[str], str]
Differing = Callable[[str, tuple[str, ...], Limits], Differ]


@pytest.fixture
def differing(tmp_path: Path) -> Iterator[Differing]:
    """Makes a Differ that is closed when the test is over."""
    made: list[Differ] = []

    def make(program: str, formats: tuple[str, ...], limits: Limits) -> Differ:
        made.append(Differ(program, formats, limits, tmp_path / "scratch"))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=["executed", "forked"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Fake:
    """Makes a program in diffoscope's place from a shell script: what goes wrong there must not depend on luck.

    A forked one is a package by diffoscope's name, whose entry point is like diffoscope's.
    """

    def executed(script: str) -> str:
        return written(tmp_path / "fake-diffoscope", f"#!/bin/sh\n{script}\n")

    def forked(script: str) -> str:
        package = tmp_path / "packages/diffoscope"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "comparators.py").write_text("ComparatorManager = list\n")
        (package / "config.py").write_text("class Config:\n    reset = lambda self: None\n")
        body = f"os.execv('/bin/sh', ['sh', '-c', {script!r}])"
        (package / "main.py").write_text(f"import os\n\n\ndef main(args):\n    {body}\n")
        return entry_point(tmp_path, f'PYTHONPATH="{package.parent}" exec {sys.executable} "$@"')

    return {"executed": executed, "forked": forked}[request.param]


def entry_point(tmp_path: Path, interpreter: str) -> str:
    """What pip writes; executed by itself, it ends with status 3."""
    python = written(tmp_path / "python3", f"#!/bin/sh\n{interpreter}\n")
    return written(tmp_path / "diffoscope", f"#!{python}\nfrom diffoscope.main import main\nraise SystemExit(3)\n")


def written(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_process_writes_every_format_that_was_asked_for(tmp_path: Path, differing: Differing, real: str) -> None:
    make_deb(tmp_path / "a", "hello", "hello", "line one\n" * 9)
    make_deb(tmp_path / "b", "hello", "hello", "line two\n" * 9)
    differ = differing(real, ("text", "html", "json"), Limits())

    found = differ.diff(1, tmp_path / "a", tmp_path / "b", "hello_1.0-r0_all.deb")

    assert found.ending is Ending.COMPLETE
    assert "-line one\n" in found.read_text()
    assert "+line two\n" in found.read_text()
    assert found.html is not None
    assert "usr/share/hello" in found.html.read_text()
    assert found.structure()["diffoscope-json-version"] == 1
    assert found.structure()["source1"] == "a/hello_1.0-r0_all.deb"


def test_no_format_is_written_that_was_not_asked_for(tmp_path: Path, differing: Differing, real: str) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    found = differing(real, ("json",), Limits()).diff(1, a, b, "f")
    assert (found.text, found.html) == (None, None)
    assert json.dumps(found.structure())


@pytest.mark.parametrize("name", ["-text", "new\nline", "odd \udcff $(touch x) ;", "sub'dir"])
def test_names_reach_diffoscope_as_they_are(tmp_path: Path, differing: Differing, real: str, name: str) -> None:
    a, b = pair(tmp_path, b"line one\n" * 9, b"line two\n" * 9, name)
    found = differing(real, ("text",), Limits()).diff(1, a, b, name)
    assert (found.ending, found.detail) == (Ending.COMPLETE, "")
    assert "+line two\n" in found.read_text()


def test_a_difference_without_end_gives_a_report_with_one(tmp_path: Path, differing: Differing, real: str) -> None:
    a, b = pair(tmp_path, os.urandom(1 << 20), os.urandom(1 << 20))
    found = differing(real, ("text", "json"), Limits()).diff(1, a, b, "f")
    assert found.ending is Ending.COMPLETE
    assert len(found.structure()["unified_diff"].splitlines()) <= 2 * (DIFF_LINES + 1) + 1
    assert found.text is not None
    assert found.text.stat().st_size <= REPORT_BYTES


def test_a_structure_too_large_to_read_is_left_out_and_says_so(
    tmp_path: Path, differing: Differing, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detbuild.compare.differ.STRUCTURE_BYTES", 1 << 20)
    a, b = pair(tmp_path, b"1", b"2")
    program = fake("head -c 2000000 /dev/zero > json; exit 1")
    found = differing(program, ("json",), Limits()).diff(1, a, b, "f")
    assert (found.ending, found.structure()) == (Ending.COMPLETE, None)
    assert found.detail == "its structure has more than 1 MiB and is left out"


def test_a_pair_over_its_time_ends_with_all_that_it_started(tmp_path: Path, differing: Differing, fake: Fake) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    pids = tmp_path / "pids"
    program = fake(f'(trap "" TERM; sleep 300) & echo $! $$ > {pids}; echo part > text; wait')
    started = time.monotonic()

    found = differing(program, ("text",), Limits(seconds=1)).diff(1, a, b, "f")

    assert time.monotonic() - started < 60
    assert (found.ending, found.detail) == (Ending.OVER_TIME, "stopped after 1 s")
    assert found.read_text() == "part\n"
    started_pids = [int(pid) for pid in pids.read_text().split()]
    assert wait_for(lambda: not any(map(is_running, started_pids)))  # what was killed takes a moment to end


def test_a_helper_left_behind_after_a_good_end_is_ended(tmp_path: Path, differing: Differing, fake: Fake) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    program = fake(f"sleep 300 & echo $! > {tmp_path}/pid; echo x > text; exit 1")
    found = differing(program, ("text",), Limits()).diff(1, a, b, "f")
    assert found.ending is Ending.COMPLETE
    deadline = time.monotonic() + 60
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mebibytes", [16, 300])
def test_a_pair_over_its_memory_says_so(tmp_path: Path, differing: Differing, real: str, mebibytes: int) -> None:
    size = 8 << 20
    a, b = pair(tmp_path, os.urandom(size), os.urandom(size))
    found = differing(real, ("json",), Limits(memory=mebibytes << 20)).diff(1, a, b, "f")
    assert (found.ending, found.detail) == (Ending.OVER_MEMORY, f"more than {mebibytes} MiB wanted")
    assert found.structure() is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo oh no >&2; exit 2", "diffoscope ended with status 2: oh no"),
        ("kill -SEGV $$", "diffoscope ended with signal 11: it said nothing"),
        ("exit 1", "diffoscope ended with status 1: it said nothing"),
    ],
)
def test_a_crash_is_told_with_its_last_words(
    tmp_path: Path, differing: Differing, fake: Fake, script: str, expected: str
) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    found = differing(fake(script), ("text",), Limits()).diff(1, a, b, "f")
    assert (found.ending, found.detail) == (Ending.FAILED, expected)


def test_temporary_files_are_gone_even_after_a_kill(tmp_path: Path, differing: Differing, fake: Fake) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    program = fake('mkdir "$TMPDIR/deep"; : > "$TMPDIR/deep/file"; sleep 300')
    differing(program, ("text",), Limits(seconds=1)).diff(1, a, b, "f")
    assert not (tmp_path / "scratch/0001/tmp").exists()


def test_closing_ends_what_runs_and_what_comes_after(tmp_path: Path, differing: Differing, fake: Fake) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    differ = differing(fake(f": > {tmp_path}/up; sleep 300"), ("text",), Limits())
    worker = threading.Thread(target=differ.diff, args=(1, a, b, "f"))
    worker.start()
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    differ.close()
    worker.join(60)
    assert not worker.is_alive()
    started = time.monotonic()
    differ.diff(2, a, b, "f")
    assert time.monotonic() - started < 60


def test_diffoscope_is_found_on_path_when_not_beside_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffoscope").symlink_to("/bin/true")
    monkeypatch.setattr("sys.executable", "/nowhere/bin/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_diffoscope() == str(tmp_path / "diffoscope")
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_diffoscope() is None


def children() -> set[int]:
    """Processes that this one started, and has not waited for."""
    return set(map(int, Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()))


def test_diffoscope_is_imported_once_and_forked_for_each_pair(tmp_path: Path, differing: Differing) -> None:
    a, b = pair(tmp_path, b"line one\n" * 9, b"line two\n" * 9)
    before = children()
    program = entry_point(tmp_path, f'echo started >> {tmp_path}/starts; exec {sys.executable} "$@"')
    differ = differing(program, ("text", "html"), Limits())
    for number in range(3):
        found = differ.diff(number, a, b, "f")
        assert (found.ending, found.detail) == (Ending.COMPLETE, "")
        assert "+line two\n" in found.read_text()
        assert found.html is not None
        assert f"<title>{tmp_path}/diffoscope --no-progress" in found.html.read_text()
    assert (tmp_path / "starts").read_text() == "started\n"
    (imported,) = children() - before
    differ.close()
    assert not is_running(imported)


def test_a_forked_diffoscope_ends_with_what_it_was_forked_from(tmp_path: Path, real: str) -> None:
    """As where the comparison is killed: its end is the end of the other's input."""
    (tmp_path / "messages").touch()
    one = Zygote(real)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [real, "--load-existing-diff", str(fifo)]
    forked = one.fork(command, tmp_path, tmp_path, tmp_path / "messages", 60, 1 << 30)
    assert os.getsid(forked.pid) == forked.pid
    assert is_running(forked.pid)
    one.close()
    deadline = time.monotonic() + 60
    while is_running(forked.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert forked.wait() < 0


@pytest.mark.parametrize("interpreter", ["exit 1", "echo oh; sleep 300", "exec /nowhere/python"])
def test_where_diffoscope_cannot_be_forked_it_is_executed(
    tmp_path: Path, differing: Differing, interpreter: str
) -> None:
    a, b = pair(tmp_path, b"1", b"2")
    run_as_program = 'case "$1" in */diffoscope) echo executed > text; exit 1;; esac'
    program = entry_point(tmp_path, f"{run_as_program}; {interpreter}")
    differ = differing(program, ("text",), Limits())
    for number in range(2):
        found = differ.diff(number, a, b, "f")
        assert (found.ending, found.read_text()) == (Ending.COMPLETE, "executed\n")
