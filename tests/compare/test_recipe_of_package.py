from __future__ import annotations

import bz2
import gzip
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from making import control, make_deb, make_ipk, make_rpm

from detbuild.compare import Comparing, Options
from detbuild.compare.control import ARCHIVE_LIMIT
from detbuild.compare.recipe import Recipes
from detbuild.errors import CompareError

needs_rpmbuild = pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs rpmbuild (Debian: rpm)")


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "zstd"])
def test_a_deb_names_its_recipe_whatever_its_compression(tmp_path: Path, compression: str) -> None:
    path = make_deb(tmp_path, "libz1", "zlib", compression=compression)
    recipes = Recipes()
    assert recipes.name(path) == ("libz1", "zlib")
    assert recipes.warnings == []


@pytest.mark.parametrize("outer", ["ar", "tar"])
@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ""])
def test_an_ipk_names_its_recipe_in_both_containers(tmp_path: Path, outer: str, suffix: str) -> None:
    if suffix == ".zst" and not shutil.which("zstd"):
        pytest.skip("tar needs the zstd program to make a .zst")
    recipes = Recipes()
    assert recipes.name(make_ipk(tmp_path, "libz1", "zlib", outer, suffix)) == ("libz1", "zlib")
    assert recipes.warnings == []


@needs_rpmbuild
@pytest.mark.parametrize(("package", "recipe"), [("hello", "hello"), ("libz1", "zlib"), ("a-b-dev", "lib32-a-b")])
def test_an_rpm_names_its_recipe_by_its_source(tmp_path: Path, package: str, recipe: str) -> None:
    recipes = Recipes()
    assert recipes.name(make_rpm(tmp_path, package, recipe)) == (package, recipe)
    assert recipes.warnings == []


def pkgdata(directory: Path) -> Path:
    """As oe.packagedata writes it for zlib, whose package debian.bbclass renamed to libz1."""
    for kind in ("runtime", "runtime-reverse"):
        (directory / kind).mkdir(parents=True)
    (directory / "runtime/zlib").write_text("PN: zlib\nPV: 1.3\nPKG:zlib: libz1\n")
    (directory / "runtime-reverse/libz1").symlink_to("../runtime/zlib")
    return directory


def test_pkgdata_maps_a_renamed_package_to_its_recipe(tmp_path: Path) -> None:
    path = make_deb(tmp_path, "libz1", None)
    assert Recipes().name(path) == ("libz1", None)
    assert Recipes([pkgdata(tmp_path / "qemux86-64")]).name(path) == ("libz1", "zlib")


@pytest.mark.parametrize("tree", ["tmp", "tmp/deploy", "tmp/deploy/deb"])
def test_the_pkgdata_of_the_tmpdir_that_a_tree_stands_in_is_found(tmp_path: Path, tree: str) -> None:
    for side in ("a", "b"):
        make_deb(tmp_path / side / "tmp/deploy/deb", "libz1", None, contents=f"{side}\n")
    pkgdata(tmp_path / "b/tmp/pkgdata/qemux86-64")
    with Comparing(tmp_path / "a" / tree, tmp_path / "b" / tree, Options(deep=False)) as comparing:
        found = list(comparing.run())
    assert [finding.recipe for finding in found if finding.artefact.endswith(".deb")] == ["zlib"]


def test_pkgdata_may_be_given_for_all_machines_at_once(tmp_path: Path) -> None:
    path = make_deb(tmp_path, "libz1", None)
    pkgdata(tmp_path / "pkgdata/qemux86-64")
    assert Recipes([tmp_path / "pkgdata"]).name(path) == ("libz1", "zlib")


def test_the_packages_own_field_outranks_pkgdata(tmp_path: Path) -> None:
    path = make_deb(tmp_path, "libz1", "zlib-ng")
    assert Recipes([pkgdata(tmp_path / "qemux86-64")]).name(path) == ("libz1", "zlib-ng")


def test_a_package_name_cannot_lead_out_of_pkgdata(tmp_path: Path) -> None:
    data = pkgdata(tmp_path / "qemux86-64")
    (tmp_path / "outside").write_text("PN: stolen\n")
    path = tmp_path / "..\u2215x_1_all.deb"
    path.write_bytes(b"!<arch>\n")
    assert Recipes([data])._from_pkgdata("../../outside") is None
    assert Recipes([data]).name(path)[1] is None


def test_what_is_no_pkgdata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="is no pkgdata"):
        Recipes([tmp_path])


@pytest.mark.parametrize(
    "name", ["libz1_1.3-r0_core2-64.deb", "libz1_1.3-r0_core2-64.ipk", "libz1-1.3-r0.core2_64.rpm"]
)
@pytest.mark.parametrize(
    "contents", [b"", b"not a package at all" * 50, b"!<arch>\n", b"\xed\xab\xee\xdb" + b"\xff" * 500]
)
def test_a_damaged_package_is_named_by_its_file_and_warned_about(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    recipes = Recipes([pkgdata(tmp_path / "qemux86-64")])
    assert recipes.name(tmp_path / name) == ("libz1", "zlib")
    assert len(recipes.warnings) == 1
    assert name in recipes.warnings[0]


def test_a_truncated_deb_does_not_stop_anything(tmp_path: Path) -> None:
    path = make_deb(tmp_path, "libz1", "zlib", compression="xz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert Recipes().name(path) in (("libz1", "zlib"), ("libz1", None))


def test_a_control_archive_that_blows_up_is_given_up(tmp_path: Path) -> None:
    with (tmp_path / "control.tar").open("wb") as stream:
        stream.truncate(ARCHIVE_LIMIT + 1)
    subprocess.run(["ar", "-crD", "big_1.0_all.ipk", "control.tar"], cwd=tmp_path, check=True)
    recipes = Recipes()
    assert recipes.name(tmp_path / "big_1.0_all.ipk") == ("big", None)
    assert "more than" in recipes.warnings[0]


def tar_of(*parts: tuple[bytes, bytes]) -> bytes:
    """A tar archive with these names and contents, in the old format, which allows any bytes in a name."""
    archive = b""
    for name, contents in parts:
        head = bytearray(512)
        head[: len(name)], head[100:108], head[124:136] = name, b"0000644\0", b"%011o\0" % len(contents)
        head[148:156], head[156:157], head[257:265] = b" " * 8, b"0", b"ustar\00000"
        head[148:156] = b"%06o\0 " % sum(head)
        archive += bytes(head) + contents + bytes(-len(contents) % 512)
    return archive + bytes(1024)


CONTROL = (b"./control", control("libz1", "zlib").encode())
NAME = "libz1_1.0-r0_all.ipk"


def ar_of(directory: Path, *parts: tuple[str, bytes]) -> Path:
    """A package by ar, with these members in their order."""
    for name, contents in parts:
        (directory / name).write_bytes(contents)
    subprocess.run(["ar", "-crD", NAME, *(name for name, _contents in parts)], cwd=directory, check=True)
    return directory / NAME


@pytest.mark.parametrize("place", ["ar", "tar", "control.tar"])
def test_a_name_in_no_character_set_before_the_control_file_is_passed_over(tmp_path: Path, place: str) -> None:
    odd = (b"odd\xff", b"x")
    inner = tar_of(*([odd] if place == "control.tar" else []), CONTROL)
    path = ar_of(tmp_path, ("odd", b"x"), ("control.tar", inner))
    if place == "ar":
        path.write_bytes(path.read_bytes().replace(b"odd/", b"od\xff/"))
    elif place == "tar":
        path.write_bytes(tar_of(odd, (b"./control.tar", inner)))
    recipes = Recipes()
    assert recipes.name(path) == ("libz1", "zlib")
    assert recipes.warnings == []


def test_data_before_the_control_file_may_be_larger_than_any_limit_of_that(tmp_path: Path) -> None:
    data = os.urandom(2 * ARCHIVE_LIMIT)
    parts = tar_of((b"./data.tar", data), (b"./control.tar", tar_of(CONTROL)))
    (tmp_path / NAME).write_bytes(gzip.compress(parts, 0))
    assert Recipes().name(tmp_path / NAME) == ("libz1", "zlib")


SIZE = 4 * ARCHIVE_LIMIT


def zeroes(name: bytes) -> bytes:
    return tar_of((name, bytes(SIZE)), CONTROL if name == b"./big" else (b"./control.tar", tar_of(CONTROL)))


def headers() -> bytes:
    return tar_of((b"./empty", b""))[:512] * (SIZE // 512) + tar_of((b"./control.tar", tar_of(CONTROL)), CONTROL)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (lambda: gzip.compress(zeroes(b"./data.tar"), 1), None),
        (lambda: gzip.compress(headers(), 1), None),
        (None, lambda: gzip.compress(zeroes(b"./big"), 1)),
        (None, lambda: gzip.compress(headers(), 1)),
        (None, lambda: bz2.compress(bz2.compress(zeroes(b"./big")))),
        # Nothing at all, behind a layer that nobody would see being unpacked.
        (None, lambda: gzip.compress(gzip.compress(b"") * (SIZE // 20) + gzip.compress(tar_of(CONTROL)), 1)),
    ],
    ids=["data", "outer headers", "a file", "headers", "bz2 in bz2", "gzip in gzip"],
)
def test_a_bomb_before_the_control_file_is_given_up(
    tmp_path: Path, outer: Callable[[], bytes] | None, inner: Callable[[], bytes] | None
) -> None:
    if outer:
        (tmp_path / NAME).write_bytes(outer())
    elif inner:
        ar_of(tmp_path, ("control.tar", inner()))
    recipes, started = Recipes(), time.process_time()
    assert recipes.name(tmp_path / NAME) == ("libz1", None)
    assert time.process_time() - started < 2
    assert len(recipes.warnings) == 1


def test_other_files_have_neither_package_nor_recipe(tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text("Package: x\n")
    assert Recipes().name(tmp_path / "Packages") == (None, None)
