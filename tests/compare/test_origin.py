from __future__ import annotations

import os
from pathlib import Path

import pytest

from detbuild.compare.collect import collect
from detbuild.compare.origin import restored, shared_inodes, shared_sstate


def tree(path: Path, *names: str) -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text(name)
    return path


def inode_warnings(a: Path, b: Path) -> list[str]:
    return shared_inodes(collect(a), collect(b))


def test_two_builds_share_nothing(tmp_path: Path) -> None:
    assert inode_warnings(tree(tmp_path / "a", "f"), tree(tmp_path / "b", "f")) == []


def test_hard_links_are_counted_and_named(tmp_path: Path) -> None:
    a, b = tree(tmp_path / "a", "f", "g"), tree(tmp_path / "b", "g")
    os.link(a / "f", b / "under-another-name")
    (warning,) = inode_warnings(a, b)
    assert "1 of 2 files" in warning
    assert "under-another-name" in warning


def test_one_directory_under_two_names_is_compared_with_itself(tmp_path: Path) -> None:
    a = tree(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    (warning,) = inode_warnings(a, tmp_path / "b")
    assert "one directory" in warning


def test_a_tree_inside_the_other_is_noticed(tmp_path: Path) -> None:
    a = tree(tmp_path / "a", "f")
    assert "compared with itself" in inode_warnings(a, tree(a / "b", "g"))[0]


def tmpdir(top: Path, restored_recipes: set[str], built_at: str = "") -> Path:
    """A TMPDIR as sstate.bbclass leaves it, with the .debs of two recipes, each built or restored."""
    built = Path(built_at or top)
    deploy = tree(top / "deploy/deb/all", "hello.deb", "zlib.deb")
    for name in ("sstate-control", "stamps"):
        (top / name).mkdir()
    index = ""
    for recipe in ("hello", "zlib"):
        stamp, manifest = f"stamps/all-oe-linux/{recipe}/1.0", f"sstate-control/manifest-all-{recipe}"
        index += f"{built}/{stamp} {built}/{manifest} {built}/work/all-oe-linux/{recipe}/1.0\n"
        (top / f"{manifest}.package_write_deb").write_text(
            f"{built}/deploy/deb/all/{recipe}.deb\n{built}/deploy/deb/\n"
        )
        (top / f"{manifest}.populate_lic").write_text(f"{built}/deploy/licenses/{recipe}/MIT\n")
        (top / stamp).parent.mkdir(parents=True)
        # Every recipe's licences were restored: that says nothing about its packages.
        (top / f"{stamp}.do_populate_lic_setscene.0123abcd").touch()
        kind = "_setscene" if recipe in restored_recipes else ""
        (top / f"{stamp}.do_package_write_deb{kind}.0123abcd").touch()
    (top / "sstate-control/index-all").write_text(index)
    return deploy.parent


def test_a_recipe_counts_as_restored_for_the_files_in_the_tree_alone(tmp_path: Path) -> None:
    assert list(restored(tmpdir(tmp_path / "a", {"zlib"}))) == ["zlib"]


def test_the_paths_of_a_build_in_a_container_are_understood(tmp_path: Path) -> None:
    assert list(restored(tmpdir(tmp_path / "a", {"hello"}, built_at="/home/other/tmp"))) == ["hello"]


def test_restored_on_both_sides_is_warned_about_as_one_build(tmp_path: Path) -> None:
    a, b = tmpdir(tmp_path / "a", {"hello", "zlib"}), tmpdir(tmp_path / "b", {"zlib"})
    both, only_a = shared_sstate(a, b)
    assert both.startswith("1 recipe was restored from sstate in A and in B (zlib)")
    assert "in A (hello): if B's build" in only_a


@pytest.mark.parametrize("recipes", [set(), {"hello"}])
def test_trees_outside_a_tmpdir_or_built_are_not_warned_about(tmp_path: Path, recipes: set[str]) -> None:
    built = tmpdir(tmp_path / "a", set())
    moved = tmpdir(tmp_path / "b", recipes).rename(tmp_path / "moved")
    assert shared_sstate(built, moved) == []


def test_an_unreadable_record_is_told_and_not_taken_for_a_no(tmp_path: Path) -> None:
    a, b = tmpdir(tmp_path / "a", set()), tmpdir(tmp_path / "b", set())
    (tmp_path / "a/sstate-control/index-broken").symlink_to("nowhere")
    (warning,) = shared_sstate(a, b)
    assert "cannot be told" in warning
