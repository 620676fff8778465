"""Where the records of a build's tasks are, and how they are found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detbuild import audits
from detbuild.audit import FIXED, Audit, Read
from detbuild.audits import Place
from detbuild.errors import DetbuildError

ONE = Audit("tracer", 7, "time", reads={Read("/bin/a", "time", FIXED): 2})


@pytest.mark.parametrize("recipe", ["zlib", "lib32-zlib", "python3.11", "a.do_b", "detbuild", "detbuildx"])
@pytest.mark.parametrize("multiconfig", ["", "default", "other"])
def test_a_record_is_found_under_the_recipe_and_task_that_it_was_kept_for(
    tmp_path: Path, recipe: str, multiconfig: str
) -> None:
    where = audits.place(tmp_path / "detbuild-audit", recipe, "do_compile", multiconfig)
    audits.keep(where, ONE)
    assert audits.find(tmp_path) == [where]
    assert (where.recipe, where.task) == (recipe, "do_compile")
    assert where.target == ("mc:other:" if multiconfig == "other" else "") + recipe
    assert audits.load(where.path) == ONE


def test_a_kept_record_replaces_the_former_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    where = audits.place(tmp_path, "x", "do_compile")
    audits.keep(where, Audit())
    audits.keep(where, ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["x.do_compile.json"]
    assert audits.load(where.path) == ONE


def test_a_record_that_cannot_replace_the_former_one_leaves_nothing(tmp_path: Path) -> None:
    where = audits.place(tmp_path, "x", "do_compile")
    where.path.mkdir()
    with pytest.raises(OSError, match="directory"):
        audits.keep(where, ONE)
    assert list(tmp_path.iterdir()) == [where.path]


@pytest.mark.parametrize("top", ["build/tmp/deploy/detbuild-audit", "build/tmp/deploy", "build/tmp", "build"])
def test_a_collection_is_found_from_every_directory_above_it(tmp_path: Path, top: str) -> None:
    audits.keep(audits.place(tmp_path / "build/tmp/deploy/detbuild-audit", "x", "do_compile"), ONE)
    assert [place.recipe for place in audits.find(tmp_path / top)] == ["x"]


@pytest.mark.parametrize("top", ["farm", "build"])
def test_a_recipe_called_detbuild_is_found_in_every_collection(tmp_path: Path, top: str) -> None:
    directory = {"farm": tmp_path / "farm", "build": tmp_path / "build/tmp/deploy/detbuild-audit"}[top]
    wheres = [audits.place(directory, "detbuild", "do_compile", multiconfig) for multiconfig in ("", "other")]
    for where in wheres:
        audits.keep(where, ONE)
        assert audits.name(where.path) == where
    assert audits.find(tmp_path / top) == wheres


def test_the_collections_of_all_tmpdirs_of_a_build_directory_are_read(tmp_path: Path) -> None:
    first = audits.place(tmp_path / "tmp/deploy/detbuild-audit", "x", "do_compile")
    other = audits.place(tmp_path / "tmp-other/deploy/detbuild-audit", "x", "do_compile", "other")
    for where in (first, other):
        audits.keep(where, ONE)
    (tmp_path / "tmp-link").symlink_to("tmp-other")
    assert audits.find(tmp_path) == [other, first]


def test_a_collection_by_another_name_is_found_when_it_is_named(tmp_path: Path) -> None:
    audits.keep(audits.place(tmp_path / "farm", "x", "do_compile"), ONE)
    assert audits.find(tmp_path) == []
    assert [place.recipe for place in audits.find(tmp_path / "farm")] == ["x"]


@pytest.mark.parametrize("top", ["work", "work/x86", "work/x86/zlib", "work/x86/zlib/1.0", "work/x86/zlib/1.0/temp"])
def test_records_beside_the_logs_of_a_work_directory_are_found(tmp_path: Path, top: str) -> None:
    path = tmp_path / "work/x86/zlib/1.0/temp/detbuild.do_compile.json"
    path.parent.mkdir(parents=True)
    path.write_text(ONE.to_json())
    assert audits.find(tmp_path / top) == [Place(path, "zlib", "do_compile")]


def test_what_is_no_record_by_its_name_is_passed_over(tmp_path: Path) -> None:
    for name in (".x.do_compile.json.17", ".x.do_compile.json", "x.json", "x.do_compile.json.bak", "mc/other/README"):
        (tmp_path / "detbuild-audit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "detbuild-audit" / name).write_text(ONE.to_json())
    assert audits.find(tmp_path) == []


def test_a_file_that_no_task_left_has_no_recipe(tmp_path: Path) -> None:
    assert audits.name(tmp_path / "audit.json") == Place(tmp_path / "audit.json")


def test_a_record_of_another_size_than_records_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "LIMIT", 1 << 20)
    path = tmp_path / "x.do_compile.json"
    path.write_text(ONE.to_json() + " " * (1 << 20))
    with pytest.raises(DetbuildError, match="more than 1 MiB"):
        audits.load(path)


def test_a_fifo_by_a_records_name_is_refused_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "x.do_compile.json"
    os.mkfifo(path)
    with pytest.raises(DetbuildError, match="not a regular file"):
        audits.load(path)
