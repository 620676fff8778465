from __future__ import annotations

import os
from pathlib import Path

from detbuild.compare.collect import Tree, collect
from detbuild.compare.match import Pair, glance, match
from detbuild.compare.model import Finding, Kind


def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def only_pair(a: Path, b: Path) -> Pair:
    (pair,) = match(collect(a), collect(b))
    return pair


def kinds(a: Path, b: Path) -> dict[str, object]:
    verdicts = {pair.path: glance(pair) for pair in match(collect(a), collect(b))}
    return {path: v.kind if isinstance(v, Finding) else v for path, v in verdicts.items()}


def test_what_only_one_tree_has_is_found_on_both_sides(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (a / "left").touch()
    (b / "right").touch()
    assert kinds(a, b) == {"left": Kind.ONLY_IN_A, "right": Kind.ONLY_IN_B}


def test_pairs_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    for tree, names in ((a, "dab"), (b, "cb")):
        for name in names:
            (tree / name).touch()
    assert [pair.path for pair in match(collect(a), collect(b))] == ["a", "b", "c", "d"]


def test_files_of_two_sizes_differ_without_being_read(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (a / "f").write_text("1")
    (b / "f").write_text("22")
    verdict = glance(only_pair(a, b))
    assert isinstance(verdict, Finding)
    assert (verdict.kind, verdict.digests) == (Kind.DIFFERENT, None)


def test_files_of_one_size_need_a_digest(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (a / "f").write_text("1")
    (b / "f").write_text("2")
    assert glance(only_pair(a, b)) is None


def test_links_are_compared_by_their_target(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (a / "same").symlink_to("x")
    (b / "same").symlink_to("x")
    (a / "other").symlink_to("x")
    (b / "other").symlink_to("y")
    assert kinds(a, b) == {"same": True, "other": Kind.DIFFERENT}


def test_a_file_that_became_a_link_differs_and_says_so(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (a / "f").write_text("1")
    (b / "f").symlink_to("x")
    verdict = glance(only_pair(a, b))
    assert isinstance(verdict, Finding)
    assert verdict.note == "a regular file in A, a symbolic link to x in B"


def test_two_fifos_are_the_same_and_not_opened(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    os.mkfifo(a / "f")
    os.mkfifo(b / "f")
    assert glance(only_pair(a, b)) is True


def test_below_an_unlisted_directory_nothing_is_called_missing(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    (b / "sub").mkdir()
    (b / "sub/f").touch()
    (b / "f").touch()
    closed = Tree(a, closed={"sub"})
    assert {pair.path: pair.hidden for pair in match(closed, collect(b))} == {"f": False, "sub/f": True}


def test_two_empty_trees_have_no_pairs(tmp_path: Path) -> None:
    a, b = trees(tmp_path)
    assert not list(match(collect(a), collect(b)))
