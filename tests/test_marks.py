"""Marks outlive the task that left them, and no longer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detbuild.marks import Mark, Marks

MARK = Mark("zlib-1.3", "/layer/zlib_1.3.bb", "do_compile", "hash", "20300101000000", ("no engine",))


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    (tmp_path / "temp").mkdir()
    return Marks(tmp_path / "state")


def test_a_degraded_session_is_known_to_later_tasks(marks: Marks, tmp_path: Path) -> None:
    marks.degrade(MARK, str(tmp_path / "temp"))
    assert list(Marks(tmp_path / "state").degraded()) == [MARK]


def test_a_task_that_runs_again_clears_its_own_mark_alone(marks: Marks, tmp_path: Path) -> None:
    other = Mark("sed-4.9", "/layer/sed_4.9.bb", "do_compile", "hash", "20300101000000")
    for mark in (MARK, other):
        (tmp_path / mark.recipe).mkdir()
        marks.degrade(mark, str(tmp_path / mark.recipe))
    marks.clear(MARK.tid)
    assert list(marks.degraded()) == [other]
    assert not list((tmp_path / MARK.recipe).iterdir())


def test_a_mark_goes_with_the_recipes_logs(marks: Marks, tmp_path: Path) -> None:
    marks.degrade(MARK, str(tmp_path / "temp"))
    shutil.rmtree(tmp_path / "temp")
    assert list(marks.degraded()) == []
    marks.clear(MARK.tid)


def test_every_build_reports_the_marks_that_count_and_once(marks: Marks, tmp_path: Path) -> None:
    marks.degrade(MARK, str(tmp_path / "temp"))
    for _ in range(2):
        marks.begin()
        assert marks.report() == [MARK]
        assert marks.report() == []
    marks.begin()
    marks.clear(MARK.tid)
    assert marks.report() == []


def test_an_open_session_is_there_until_it_is_closed(marks: Marks) -> None:
    marks.open(MARK)
    assert marks.close(MARK.tid) == MARK
    assert marks.close(MARK.tid) is None


def test_a_new_build_forgets_the_sessions_of_one_that_was_killed(marks: Marks) -> None:
    marks.open(MARK)
    marks.begin()
    assert marks.close(MARK.tid) is None


def test_what_another_version_wrote_is_no_mark(marks: Marks, tmp_path: Path) -> None:
    marks.degrade(MARK, str(tmp_path / "temp"))
    path = tmp_path / "temp/detbuild.do_compile.degraded"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert list(marks.degraded()) == []


def test_nothing_was_ever_marked(marks: Marks, tmp_path: Path) -> None:
    assert list(marks.degraded()) == []
    assert marks.report() == []
    marks.clear(MARK.tid)
    marks.begin()
    assert not (tmp_path / "state").exists()
