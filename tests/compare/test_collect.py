from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from making import as_nobody, readable_by_all

from detbuild.compare.collect import collect, excluded
from detbuild.errors import CompareError


def test_links_are_listed_and_never_followed(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    (tree / "out").symlink_to(outside)
    (tree / "sub/loop").symlink_to("..")
    (tree / "dangling").symlink_to("nowhere")

    found = collect(tree).entries

    assert {path: entry.target for path, entry in found.items()} == {
        "out": str(outside),
        "sub/loop": "..",
        "dangling": "nowhere",
    }


def test_special_files_are_listed_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        found = collect(tmp_path).entries
    assert stat.S_ISFIFO(found["fifo"].mode)
    assert found["socket"].description == "a socket"


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    raw = b"new\nline \xff"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)).touch()
    assert [os.fsencode(path) for path in collect(tmp_path).entries] == [raw]


def test_an_empty_directory_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "empty/below").mkdir(parents=True)
    assert not collect(tmp_path).entries


@pytest.mark.parametrize("place", ["", "deploy/", "build/tmp/deploy/"])
def test_the_audits_of_a_build_are_left_out(tmp_path: Path, place: str) -> None:
    for name in ("detbuild-audit/x.do_compile.json", "deb/x.deb"):
        (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place / name).touch()
    assert list(collect(tmp_path).entries) == [f"{place}deb/x.deb"]


def test_what_only_bears_the_name_of_a_builds_audits_is_compared(tmp_path: Path) -> None:
    for name in ("usr/share/detbuild-audit/x", "etc/detbuild-audit", "mydeploy/detbuild-audit/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(collect(tmp_path).entries) == 3


def test_a_directory_that_cannot_be_listed_is_a_trouble_and_hides_what_it_holds() -> None:
    with readable_by_all() as top:
        (top / "closed").mkdir(mode=0o000)
        (top / "file").touch()
        with as_nobody():
            tree = collect(top)
        (top / "closed").chmod(0o755)
    assert list(tree.entries) == ["file"]
    assert [trouble.path for trouble in tree.troubles] == [str(top / "closed")]
    assert "Permission denied" in tree.troubles[0].message
    assert tree.hides("closed/deep/file")
    assert not tree.hides("other/file")


def test_what_is_no_directory_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CompareError, match="not a directory"):
        collect(tmp_path / "file")
    with pytest.raises(CompareError, match="No such file"):
        collect(tmp_path / "nothing")


def test_an_excluded_directory_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "keep/index").mkdir(parents=True)
    (tmp_path / "keep/index/file").touch()
    (tmp_path / "keep/Packages.gz").touch()
    (tmp_path / "keep/hello.deb").touch()
    assert list(collect(tmp_path, ["Packages*", "keep/index"]).entries) == ["keep/hello.deb"]


@pytest.mark.parametrize("pattern", ["*.gz", "Packages.gz", "deb/*", "deb/all/Packages.gz"])
def test_a_glob_matches_the_whole_path_or_the_last_name(pattern: str) -> None:
    assert excluded("deb/all/Packages.gz", [pattern])
    assert not excluded("rpm/all/primary.xml", [pattern])
