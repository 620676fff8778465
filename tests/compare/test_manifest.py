"""Whose an artefact is that is no package."""

from __future__ import annotations

from pathlib import Path

import pytest

from detbuild.compare import Comparing, Options
from detbuild.compare.manifest import by_place


def tmpdir(top: Path, day: int, built_at: str) -> Path:
    """A TMPDIR as sstate.bbclass leaves it, with a kernel and an image; returns its deploy directory."""
    files = {
        "linux-yocto": ("deploy", "images/qemux86-64/bzImage"),
        "core-image-minimal": ("image_complete", "images/qemux86-64/core-image-minimal.rootfs.json"),
    }
    (top / "sstate-control").mkdir(parents=True)
    index = ""
    for recipe, (task, name) in files.items():
        place = top / "deploy" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"made 2026-11-{day}\n")
        manifest = f"sstate-control/manifest-qemux86_64-{recipe}"
        index += f"{built_at}/stamps/qemux86_64-oe-linux/{recipe}/1.0 {built_at}/{manifest} {built_at}/work\n"
        (top / f"{manifest}.{task}").write_text(f"{built_at}/deploy/{name}\n{built_at}/deploy/images/\n")
    (top / "sstate-control/index-qemux86_64").write_text(index)
    return top / "deploy"


def test_a_kernel_and_an_image_are_their_recipes_by_sstates_manifests(tmp_path: Path) -> None:
    """Also where the build called its TMPDIR something else, and for what only one side has."""
    a, b = tmpdir(tmp_path / "a", 20, "/build/tmp"), tmpdir(tmp_path / "b", 21, str(tmp_path / "b"))
    (b / "images/qemux86-64/bzImage").unlink()
    with Comparing(a, b, Options(deep=False)) as comparing:
        list(comparing.run())
    assert {finding.artefact: finding.recipe for finding in comparing.result.findings} == {
        "images/qemux86-64/bzImage": "linux-yocto",
        "images/qemux86-64/core-image-minimal.rootfs.json": "core-image-minimal",
    }


@pytest.mark.parametrize(
    ("path", "recipe"),
    [
        ("/cache/universal/0f/1e/sstate:zlib-native:x86_64-linux:1.3:r0:x86_64:14:0f1e_package.tar.zst", "zlib-native"),
        ("/tmp/buildhistory/packages/core2-64-poky-linux/zlib/latest", "zlib"),
        ("/tmp/buildhistory/packages/core2-64-poky-linux/zlib/libz1/files-in-package.txt", "zlib"),
        ("/tmp/deploy/images/qemux86-64/bzImage", None),
        ("/tmp/packages/latest", None),
    ],
)
def test_names_and_places_tell_the_recipe(path: str, recipe: str | None) -> None:
    assert by_place(Path(path)) == recipe


def test_a_licence_is_of_the_recipe_whose_recipeinfo_is_beside_it(tmp_path: Path) -> None:
    for name in ("core2-64/zlib/recipeinfo", "core2-64/zlib/zlib.h", "core-image/license.manifest"):
        path = tmp_path / "licenses" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert by_place(tmp_path / "licenses/core2-64/zlib/zlib.h") == "zlib"
    assert by_place(tmp_path / "licenses/core-image/license.manifest") is None


@pytest.mark.parametrize("broken", ["index-broken", "manifest-qemux86_64-linux-yocto.gone"])
def test_a_record_of_sstates_that_cannot_be_read_is_told_and_ends_nothing(tmp_path: Path, broken: str) -> None:
    """As where a build removes it meanwhile."""
    a, b = tmpdir(tmp_path / "a", 20, "/build/tmp"), tmpdir(tmp_path / "b", 21, "/build/tmp")
    (tmp_path / "a/sstate-control" / broken).symlink_to("nowhere")
    with Comparing(a, b, Options(deep=False)) as comparing:
        assert len(list(comparing.run())) == 2
    (warning,) = [text for text in comparing.result.warnings if "do not name every recipe" in text]
    assert f"sstate's manifests beside {a}" in warning
    assert broken in warning
