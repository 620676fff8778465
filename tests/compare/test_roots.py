"""What follows from what, on trees made by real programs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
from making import control, make_deb, make_rpm

from detbuild.compare import Comparing, Options
from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts, Inner
from detbuild.compare.inspect import LOOKED_INTO
from detbuild.compare.model import Comparison, Finding, Kind
from detbuild.compare.recipe import Recipes
from detbuild.compare.roots import resolve

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def compare(a: Path, b: Path, options: Options | None = None) -> Comparison:
    with Comparing(a, b, options or Options(deep=False)) as comparing:
        list(comparing.run())
    return comparing.result


def named(result: Comparison, artefact: str) -> Finding:
    return next(finding for finding in result.findings if finding.artefact == artefact)


def run(*command: object, cwd: Path | None = None) -> str:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1", "PATH": PATH}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DATES = {"a": "built 2026-11-21 10:11:12\n", "b": "built 2026-11-22 20:31:42\n"}


@pytest.fixture
def deploy(tmp_path: Path) -> tuple[Path, Path]:
    """A feed with two packages of one recipe, its index, and an image that has the file of one of them."""
    for side, words in DATES.items():
        feed = tmp_path / side / "deb"
        make_deb(feed, "hello", "hello", words)
        make_deb(feed, "hello-doc", "hello", words)
        make_deb(feed, "same", "same")
        (feed / "Packages").write_text(run("dpkg-scanpackages", "-m", ".", cwd=feed))
        root = tmp_path / f"root-{side}/usr/share"
        root.mkdir(parents=True)
        (root / "hello").write_text(words)
        os.utime(root / "hello", (1, 1))
        images = tmp_path / side / "images"
        images.mkdir()
        image = images / f"core-image-2026112{1 if side == 'a' else 2}101112.tar"
        run(
            "tar",
            "--sort=name",
            "--mtime=@1",
            "--owner=0",
            "--group=0",
            "-C",
            tmp_path / f"root-{side}",
            "-cf",
            image,
            ".",
        )
        (images / "core-image.tar").symlink_to(image.name)
    return tmp_path / "a", tmp_path / "b"


needs_index = pytest.mark.skipif(
    not shutil.which("dpkg-scanpackages"), reason="needs dpkg-scanpackages (Debian: dpkg-dev)"
)


@needs_index
def test_four_findings_with_one_root_read_as_one(deploy: tuple[Path, Path]) -> None:
    result = compare(*deploy)
    assert dict(result.counts()) == {"Same": 2, "Different": 4, "Missing": 0, "Total": 6}
    (root,) = result.roots
    assert (root.recipe, root.cause) == ("hello", "timestamp")
    assert sorted(finding.artefact for finding in root.findings) == [
        "deb/hello-doc_1.0-r0_all.deb",
        "deb/hello_1.0-r0_all.deb",
    ]
    assert sorted(finding.artefact for finding in root.followers) == [
        "deb/Packages",
        "images/core-image-20261121101112.tar",
    ]


@needs_index
def test_an_index_names_the_packages_whose_checksums_stand_in_it(deploy: tuple[Path, Path]) -> None:
    index = named(compare(*deploy), "deb/Packages")
    assert index.cause == "checksum"
    assert index.origins == ["deb/hello_1.0-r0_all.deb", "deb/hello-doc_1.0-r0_all.deb"] or set(index.origins) == {
        "deb/hello_1.0-r0_all.deb",
        "deb/hello-doc_1.0-r0_all.deb",
    }


def in_one(result: Comparison) -> tuple[str, list[str], list[str]]:
    """The cause of the only root, its findings and its followers."""
    (root,) = result.roots
    return root.cause, [one.artefact for one in root.findings], [one.artefact for one in root.followers]


def index_debs(feed: Path) -> None:
    (feed / "Packages").write_text(run("dpkg-scanpackages", "-m", ".", cwd=feed))
    run("gzip", "-kn", "Packages", cwd=feed)
    (feed / "SHA256SUMS").write_text(run("sha256sum", "Packages", "Packages.gz", cwd=feed))


@needs_index
def test_the_indexes_of_a_feed_follow_from_a_package_that_is_on_one_side_only(tmp_path: Path) -> None:
    for side in DATES:
        for name in ("alpha", "beta", "gamma") if side == "a" else ("alpha", "gamma"):
            make_deb(tmp_path / side, name, name)
        index_debs(tmp_path / side)
    result = compare(tmp_path / "a", tmp_path / "b")
    assert in_one(result) == ("missing", ["beta_1.0-r0_all.deb"], ["Packages", "Packages.gz", "SHA256SUMS"])
    index = named(result, "Packages")
    assert [found.name for found in index.causes] == ["missing"]
    assert index.origins == ["beta_1.0-r0_all.deb"]


@needs_index
def test_an_index_follows_from_a_missing_and_a_changed_package_alike(tmp_path: Path) -> None:
    for side, words in DATES.items():
        make_deb(tmp_path / side, "alpha", "alpha", words)
        make_deb(tmp_path / side, "gamma", "gamma")
        if side == "b":
            make_deb(tmp_path / side, "beta", "beta")
        index_debs(tmp_path / side)
    index = named(compare(tmp_path / "a", tmp_path / "b"), "Packages")
    assert {found.name for found in index.causes} == {"missing", "checksum"}
    assert set(index.origins) == {"alpha_1.0-r0_all.deb", "beta_1.0-r0_all.deb"}


@needs_index
def test_the_index_of_a_feed_that_one_side_has_empty_follows_from_its_only_package(tmp_path: Path) -> None:
    deb = make_deb(tmp_path / "a", "beta", "beta")
    (tmp_path / "b").mkdir()
    for side in DATES:
        index_debs(tmp_path / side)
    followers = ["Packages", "Packages.gz", "SHA256SUMS"]
    assert in_one(compare(tmp_path / "a", tmp_path / "b")) == ("missing", [deb.name], followers)


@needs_index
def test_an_index_that_lost_a_package_which_is_there_is_a_root(tmp_path: Path) -> None:
    for side in DATES:
        make_deb(tmp_path / side, "alpha", "alpha")
        make_deb(tmp_path / side, "beta", "beta")
        index_debs(tmp_path / side)
    one = tmp_path / "b/Packages"
    one.write_text(one.read_text().partition("\n\n")[0] + "\n")
    (root,) = compare(tmp_path / "a", tmp_path / "b").roots
    assert (root.cause, [finding.artefact for finding in root.findings]) == ("missing", ["Packages"])


@pytest.mark.skipif(not shutil.which("createrepo_c"), reason="needs createrepo_c (Debian: createrepo-c)")
@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs rpmbuild (Debian: rpm)")
def test_repodata_follows_from_a_package_that_is_on_one_side_only(tmp_path: Path) -> None:
    names = ("alpha", "beta", "gamma")
    for name in names:
        make_rpm(tmp_path / "a", name, name)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    next((tmp_path / "b").rglob("beta-*.rpm")).unlink()
    for side in DATES:
        run("createrepo_c", "--quiet", "--no-database", tmp_path / side)
    result = compare(tmp_path / "a", tmp_path / "b")
    cause, findings, followers = in_one(result)
    assert (cause, findings) == ("missing", ["beta-1.0-r0.noarch.rpm"])
    kinds = [name.rpartition("-")[2].partition(".")[0] for name in followers]
    assert sorted(kinds) == ["filelists", "other", "primary", "repodata/repomd"]


@needs_index
def test_an_image_of_another_date_is_one_artefact_and_followed_to_the_package(deploy: tuple[Path, Path]) -> None:
    result = compare(*deploy)
    image = named(result, "images/core-image-20261121101112.tar")
    assert image.other == "images/core-image-20261122101112.tar"
    assert image.origins
    assert "deb/hello" in image.origins[0]
    assert any("matched by names without date" in note for note in result.notes)


@needs_index
def test_an_image_is_followed_to_the_recipe_by_pkgdata(deploy: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "pkgdata/runtime").mkdir(parents=True)
    (tmp_path / "pkgdata/runtime/hello").write_text(
        'PN: hello\nPKG:hello: hello\nFILES_INFO:hello: {"/usr/share/hello": 26}\n'
    )
    for top in deploy:
        shutil.rmtree(top / "deb")
    result = compare(*deploy, Options(deep=False, pkgdata=(tmp_path / "pkgdata",)))
    (image,) = result.findings
    assert image.owners == {"./usr/share/hello": ("hello", "hello")}
    (root,) = result.roots
    assert (root.recipe, root.cause) == ("hello", "timestamp")


def test_an_image_with_a_difference_of_its_own_stays_a_root(deploy: tuple[Path, Path], tmp_path: Path) -> None:
    for side in DATES:
        root = tmp_path / f"root-{side}"
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text(os.urandom(16).hex() + "\n")
        (image,) = (tmp_path / side / "images").glob("core-image-*.tar")
        run("tar", "--sort=name", "--mtime=@1", "--owner=0", "--group=0", "-C", root, "-cf", image, ".")
    result = compare(*deploy)
    image_found = named(result, "images/core-image-20261121101112.tar")
    assert not image_found.follows
    assert {"random", "timestamp"} <= {cause.name for cause in image_found.causes}


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if not shutil.which(program, path=PATH)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


FIXED = "8a6f7f1e-0c1d-4d0e-9b57-3a4f5b6c7d8e"


@needs("mkfs.ext4")
@pytest.mark.parametrize("identifier", ["fixed", "random"])
def test_an_image_of_known_files_alone_follows_unless_it_has_an_identifier_of_its_own(
    tmp_path: Path, identifier: str
) -> None:
    """The file grows, so that blocks, sizes and free space of the image change with it."""
    for side, words in (("a", DATES["a"]), ("b", DATES["b"] * 2000)):
        make_deb(tmp_path / side, "hello", "hello", words)
        root = tmp_path / f"root-{side}/usr/share"
        root.mkdir(parents=True)
        (root / "hello").write_text(words)
        image, uuid = tmp_path / side / "core-image.ext4", FIXED if identifier == "fixed" else uuid4()
        run("truncate", "-s", "4M", image)
        run("mkfs.ext4", "-q", "-F", "-U", uuid, "-E", f"hash_seed={FIXED}", "-d", root.parent.parent, image)
    result = compare(tmp_path / "a", tmp_path / "b")
    found = named(result, "core-image.ext4")
    assert found.follows == (identifier == "fixed")
    assert ("random" in [cause.name for cause in found.causes]) == (identifier == "random")
    assert len(result.roots) == (1 if found.follows else 2)


FIT = """/dts-v1/;
/ { description = "a test"; #address-cells = <1>;
    images { kernel-1 { data = /incbin/("zImage"); type = "kernel"; arch = "arm"; os = "linux"; compression = "none";
        load = <0x80000>; entry = <0x80000>; hash-1 { algo = "sha256"; }; }; };
    configurations { default = "conf-1"; conf-1 { kernel = "kernel-1"; }; };
};
"""


def make_kernel(path: Path, words: str) -> None:
    """Laid out as arch/arm/boot/compressed does it: code, then the compressed kernel."""
    payload = gzip.compress(words.encode(), mtime=0)
    image = bytearray(b"\0\0\xa0\xe1" * 500) + payload
    image[0x24:0x30] = struct.pack("<III", 0x016F2818, 0, len(image))
    path.write_bytes(image)


@needs("mkfs.vfat", "mcopy", "sfdisk", "mkimage", "dtc")
@pytest.mark.parametrize("more", ["", " by a longer name"], ids=["as long", "longer"])
def test_what_holds_a_deployed_kernel_follows_from_the_kernel(tmp_path: Path, more: str) -> None:
    """A boot partition, a disk, U-Boot's images; where both kernels have one length, and where they have not."""
    for side, words in DATES.items():
        images, work = tmp_path / side, tmp_path / f"work-{side}"
        images.mkdir()
        work.mkdir()
        make_kernel(work / "zImage", words + (more if side == "b" else ""))
        (work / "fit.its").write_text(FIT)
        shutil.copy(work / "zImage", images / "zImage--6.6-r0.bin")
        boot, disk = images / "boot.vfat", images / "core-image.wic"
        run("truncate", "-s", "1M", boot)
        run("mkfs.vfat", "-i", "12345678", boot)
        run("mcopy", "-i", boot, work / "zImage", "::zImage")
        run("truncate", "-s", "3M", disk)
        (work / "table").write_text("label: dos\nlabel-id: 0x12345678\nstart=2048, size=2048\n")
        with (work / "table").open() as table:
            subprocess.run(["sfdisk", "-q", disk], stdin=table, check=True, env=os.environ | {"PATH": PATH})
        run("dd", f"if={boot}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc")
        run("mkimage", "-f", "fit.its", images / "fitImage", cwd=work)
        run(
            "mkimage", "-A", "arm", "-T", "kernel", "-C", "none", "-n", "x", "-d", "zImage", images / "uImage", cwd=work
        )
    cause, findings, followers = in_one(compare(tmp_path / "a", tmp_path / "b"))
    assert (cause, findings) == ("timestamp", ["zImage--6.6-r0.bin"])
    assert followers == ["boot.vfat", "core-image.wic", "fitImage", "uImage"]


def origins(**places: tuple[str, ...]) -> dict[str, list[str]]:
    """What artefacts follow from that all hold one differing file, each at a place of its own."""
    findings = []
    for name, where in places.items():
        found = Finding(name.replace("_", "."), Kind.DIFFERENT, inner=[Inner(where, "digest a", "digest b")])
        found.causes = gather([Change(where, "text", "2026-11-21", "2026-11-22")], Facts())
        findings.append(found)
    result = Comparison(Path("a"), Path("b"), findings=findings)
    resolve(result, Recipes())
    return {finding.artefact: finding.origins for finding in findings}


def test_an_image_inside_another_is_its_origin_and_one_beside_it_is_not() -> None:
    found = origins(
        x_ext4=("./etc/x",),
        x_ext4_gz=("x.ext4", "./etc/x"),
        x_squashfs=("./etc/x",),
        x_tar_gz=("x.tar", "etc/x"),
        x_wic=("partition 2", "./etc/x"),
    )
    assert found == {
        "x.ext4": [],
        "x.ext4.gz": ["x.ext4"],
        "x.squashfs": [],
        "x.tar.gz": [],
        "x.wic": ["x.ext4"],
    }


def test_images_of_one_package_follow_from_it_and_not_from_each_other() -> None:
    found = origins(a_wic=("partition 2", "./etc/x"), b_ext4=("./etc/x",), c_rpm=("./etc/x",))
    assert found == {"a.wic": ["b.ext4"], "b.ext4": ["c.rpm"], "c.rpm": []}


def test_what_was_not_looked_into_makes_no_root_of_an_image_whose_other_files_are_known(tmp_path: Path) -> None:
    """More files of the image differ than are looked into, and of no package that they are from."""
    for side, words in DATES.items():
        (tmp_path / side).mkdir()
        names = []
        for package in ("one", "two"):
            root = tmp_path / f"root-{side}" / package
            (root / "DEBIAN").mkdir(parents=True)
            (root / "DEBIAN/control").write_text(control(package, "many"))
            for number in range(LOOKED_INTO // 2 + 1):
                (root / f"{package}{number}").write_text(f"{package} {number} {words}")
                names.append(f"{package}/{package}{number}")
            for path in (*root.iterdir(), root):
                os.utime(path, (1, 1))
            run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", root, tmp_path / side / f"{package}_1.0_all.deb")
        run("tar", "--mtime=@1", "-cf", tmp_path / side / "image.tar", *names, cwd=root.parent)
    result = compare(tmp_path / "a", tmp_path / "b")
    assert "unknown" in [found.name for found in named(result, "image.tar").causes]
    assert in_one(result) == ("timestamp", ["one_1.0_all.deb", "two_1.0_all.deb"], ["image.tar"])


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_build_id_follows_from_the_debug_package_of_its_recipe(tmp_path: Path) -> None:
    for side, place in (("a", "one"), ("b", "another")):
        work = tmp_path / place
        work.mkdir()
        (work / "x.c").write_text("int main(void) { return 0; }\n")
        run("gcc", "-g", "-o", "x", work / "x.c", cwd=work)
        run("objcopy", "--only-keep-debug", "x", "x.debug", cwd=work)
        run("strip", "x", cwd=work)
        for package, file in (("x", "x"), ("x-dbg", "x.debug")):
            made = make_deb(tmp_path / side, package, "x")
            root = tmp_path / f"unpacked-{side}-{package}"
            run("dpkg-deb", "-R", made, root)
            shutil.copy(work / file, root / "usr/share" / package)
            for path in root.rglob("*"):
                os.utime(path, (1, 1))
            run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", root, made)
    result = compare(tmp_path / "a", tmp_path / "b")
    program = named(result, "x_1.0-r0_all.deb")
    assert (program.cause, program.origins) == ("build-id", ["x-dbg_1.0-r0_all.deb"])
    (root_found,) = result.roots
    assert (root_found.recipe, root_found.cause) == ("x", "build-path")


def test_sstate_archives_are_matched_by_their_task(tmp_path: Path) -> None:
    for side, digest in (("a", "0f"), ("b", "1e")):
        place = tmp_path / side / digest[:2] / "ab"
        place.mkdir(parents=True)
        (tmp_path / f"w{side}").mkdir()
        (tmp_path / f"w{side}/stamp").write_text(DATES[side])
        name = f"sstate:hello:core2-64-oe-linux:1.0:r0:core2-64:14:{digest * 16}_package.tar.zst"
        run("tar", "--mtime=@1", "--zstd", "-cf", place / name, "-C", tmp_path / f"w{side}", "stamp")
        (place / f"sstate:hello:core2-64-oe-linux:1.0:r0:core2-64:14:{digest * 16}_populate_lic.tar.zst").write_bytes(
            b"x"
        )
    result = compare(tmp_path / "a", tmp_path / "b")
    assert dict(result.counts()) == {"Same": 1, "Different": 1, "Missing": 0, "Total": 2}
    assert (result.findings[0].cause, result.findings[0].recipe) == ("timestamp", "hello")


def test_buildhistory_manifests_and_licences_are_read_word_by_word(tmp_path: Path) -> None:
    for side in DATES:
        top = tmp_path / side
        for name in ("buildhistory/packages/x/hello", "licenses/hello", "images"):
            (top / name).mkdir(parents=True)
        (top / "buildhistory/packages/x/hello/latest").write_text(
            f"PV = 1.0\nPKGSIZE = {'10' if side == 'a' else '12'}\n"
        )
        (top / "licenses/hello/recipeinfo").write_text("LICENSE: MIT\nPR: r0\nVERSION: 1.0\n")
        (top / "images/core-image.manifest").write_text(f"hello x86_64 1.0-r{0 if side == 'a' else 1}\n")
        (top / "images/cve.json").write_text(json.dumps({"version": "1", "time": DATES[side][6:16]}))
    result = compare(tmp_path / "a", tmp_path / "b")
    causes = {finding.artefact: finding.cause for finding in result.findings}
    recipes = {finding.artefact: finding.recipe for finding in result.findings}
    assert recipes["buildhistory/packages/x/hello/latest"] == "hello"
    assert recipes["images/core-image.manifest"] is None
    assert causes["images/cve.json"] == "timestamp"
    assert causes["images/core-image.manifest"] == "unknown"
    assert "licenses/hello/recipeinfo" not in causes
