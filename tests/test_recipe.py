"""A recipe's epoch with the real BitBake datastore and fetcher: what SRC_URI brings, and what stays in WORKDIR."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from epoch_repositories import commit, git, repository

for _missing in ("hashserv", "hashserv.client"):
    # bb imports it, the registry package leaves it out, and nothing here calls it.
    sys.modules.setdefault(_missing, types.ModuleType(_missing))
sys.modules["hashserv"].client = sys.modules["hashserv.client"]  # type: ignore[attr-defined]

pytest.importorskip("bb", reason="the registry package bitbake-setup is not installed")

import bb  # noqa: E402
import bb.data  # noqa: E402
import bb.fetch2  # noqa: E402

from detbuild import epoch, recipe  # noqa: E402
from detbuild.unpacked import Recipe, Unpacked  # noqa: E402

pytestmark = pytest.mark.bitbake

OLD, MIDDLE, NEW = 1_400_000_000, 1_500_000_000, 1_600_000_000
FALLBACK = 1_302_044_400
DEFAULT = "${@get_source_date_epoch_value(d)}"


class Build:
    """One recipe's datastore and directories, and what OE-Core's tasks do with them before a stamp."""

    def __init__(self, top: Path) -> None:
        self.layer, self.work = top / "layer", top / "work"
        self.unpackdir = self.work / "sources"
        self.layer.mkdir()
        self.d = bb.data.init()
        self.set(
            WORKDIR=self.work,
            UNPACKDIR=self.unpackdir,
            BP="p-1",
            S=self.unpackdir / "p-1",
            SDE_FILE=self.work / "source-date-epoch/__source_date_epoch.txt",
            SOURCE_DATE_EPOCH=DEFAULT,
            SOURCE_DATE_EPOCH_FALLBACK=FALLBACK,
            BB_GIT_DEFAULT_DESTSUFFIX="p-1",
            FILESPATH=self.layer,
            DL_DIR=top / "downloads",
            FILE=self.layer / "p_1.bb",
            PATH=os.environ["PATH"],
        )
        self.d.setVarFlag("do_unpack", "task", 1)

    def set(self, **values: object) -> None:
        for name, value in values.items():
            self.d.setVar(name, str(value))

    def unpack(self, then: Callable[[], object] = lambda: None, **values: object) -> epoch.Epoch:
        """do_unpack with its cleandirs and postfunc; ``then`` is what the recipe appends to it."""
        self.set(**values)
        shutil.rmtree(self.unpackdir, ignore_errors=True)
        self.unpackdir.mkdir(parents=True)
        urls = (self.d.getVar("SRC_URI") or "").split()
        if urls:
            fetcher = bb.fetch2.Fetch(urls, self.d)
            fetcher.download()
            fetcher.unpack(str(self.unpackdir))
        then()
        self.set(BB_CURRENTTASK="unpack")
        return recipe.stamp(self.d)

    def deploy(self, **values: object) -> epoch.Epoch:
        """What externalsrc and recipes without do_unpack do: the stamp is a prefunc of a later task."""
        self.set(BB_CURRENTTASK="deploy_source_date_epoch", **values)
        return recipe.stamp(self.d)

    def kept(self) -> tuple[int, int]:
        """What SDE_FILE and its copy in WORKDIR say."""
        return epoch.read(self.d.getVar("SDE_FILE")), epoch.read(str(self.copy))

    @property
    def copy(self) -> Path:
        return self.work / "__source-date-epoch.txt"

    def tarball(self, date: int, name: str = "p-1", *more: Path) -> str:
        with tarfile.open(self.layer / f"{name}.tar.gz", "w:gz") as archive:
            entry = tarfile.TarInfo(f"{name}/main.c")
            entry.mtime = date
            archive.addfile(entry)
            for path in more:
                archive.add(path, f"{name}/{path.name}")
        return f"file://{name}.tar.gz"

    def file(self, name: str, text: str = "x") -> str:
        (self.layer / name).parent.mkdir(parents=True, exist_ok=True)
        (self.layer / name).write_text(text)
        return f"file://{name}"


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bb.warn and bb.fatal said."""
    lines: list[str] = []

    def fatal(text: str) -> None:
        lines.append(text)
        raise bb.BBHandledException

    monkeypatch.setattr(bb, "warn", lines.append)
    monkeypatch.setattr(bb, "fatal", fatal)
    return lines


def test_a_tarball_gives_its_youngest_file_and_both_files_state_it(build: Build, said: list[str]) -> None:
    found = build.unpack(SRC_URI=build.tarball(MIDDLE))
    assert found == epoch.Epoch(MIDDLE, "youngest", f"{build.unpackdir}/p-1/main.c")
    assert build.kept() == (MIDDLE, MIDDLE)
    assert said == []


@pytest.mark.parametrize("where", ["", "/nested"])
def test_what_bitbake_copied_or_decompressed_does_not_count(build: Build, where: str) -> None:
    patch, directory = build.file("fix.patch"), build.file("files/a")
    with gzip.open(build.layer / "data.bin.gz", "wb") as stream:
        stream.write(b"x")
    for path in build.layer.rglob("*"):
        # cp keeps the layer's times: older than this process, yet not from an archive.
        os.utime(path, (NEW, NEW))
    kept = build.tarball(NEW, "kept").replace("kept.tar.gz", "kept.tar.gz;unpack=0")
    os.utime(build.layer / "kept.tar.gz", (NEW, NEW))
    uris = [build.tarball(MIDDLE), f"{patch};subdir=p-1{where}", "file://files", "file://data.bin.gz", kept]
    found = build.unpack(SRC_URI=" ".join(uris))
    assert directory
    assert sorted(path.name for path in build.unpackdir.iterdir()) == ["data.bin", "files", "kept.tar.gz", "p-1"]
    assert found == epoch.Epoch(MIDDLE, "youngest", f"{build.unpackdir}/p-1/main.c")


def test_a_recipe_of_files_alone_gets_the_fallback(build: Build) -> None:
    build.file("hello.c")
    os.utime(build.layer / "hello.c", (NEW, NEW))
    found = build.unpack(SRC_URI="file://hello.c", S=build.unpackdir)
    assert (found.value, found.origin) == (FALLBACK, "fallback")
    assert build.kept() == (FALLBACK, FALLBACK)


def test_a_recipe_without_sources_gets_the_fallback(build: Build) -> None:
    assert build.unpack().origin == "fallback"


def test_a_tarball_whose_source_is_the_unpack_directory_counts(build: Build) -> None:
    assert build.unpack(SRC_URI=build.tarball(MIDDLE), S=build.unpackdir).value == MIDDLE


def test_what_the_recipes_own_unpack_made_does_not_count(build: Build) -> None:
    made = build.unpackdir / "p-1/generated.h"
    found = build.unpack(lambda: made.write_text("now"), SRC_URI=build.tarball(MIDDLE))
    assert found.evidence == f"{build.unpackdir}/p-1/main.c"


def git_uri(top: Path, revision: str, options: str = "") -> str:
    return f"git://{top};protocol=file;branch=main;rev={revision}{options}"


def test_a_new_srcrev_never_keeps_the_old_epoch(build: Build, tmp_path: Path) -> None:
    first = repository(tmp_path / "upstream", OLD)
    second = commit(tmp_path / "upstream", MIDDLE)
    found = build.unpack(SRC_URI=git_uri(tmp_path / "upstream", first))
    assert found == epoch.Epoch(OLD, "git", f"{build.unpackdir}/p-1 commit {first}")
    assert build.unpack(SRC_URI=git_uri(tmp_path / "upstream", second)).value == MIDDLE
    assert build.kept() == (MIDDLE, MIDDLE)
    assert build.unpack(SRC_URI=git_uri(tmp_path / "upstream", first)).value == OLD
    assert build.kept() == (OLD, OLD)


def test_the_newest_of_several_git_sources_wins(build: Build, tmp_path: Path) -> None:
    new, old = repository(tmp_path / "a", NEW), repository(tmp_path / "b", OLD)
    uris = [git_uri(tmp_path / "b", old, ";name=b"), git_uri(tmp_path / "a", new, ";name=a;destsuffix=other")]
    assert build.unpack(SRC_URI=" ".join(uris)).evidence == f"{build.unpackdir}/other commit {new}"


def test_submodules_of_gitsm_count(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    repository(tmp_path / "library", NEW)
    repository(tmp_path / "upstream", OLD)
    git(tmp_path / "upstream", "submodule", "--quiet", "add", f"file://{tmp_path}/library", "sub")
    git(tmp_path / "upstream", "commit", "-q", "-m", "submodule", date=MIDDLE)
    head = git(tmp_path / "upstream", "rev-parse", "HEAD")
    uri = git_uri(tmp_path / "upstream", head).replace("git://", "gitsm://")
    assert build.unpack(SRC_URI=uri).evidence.startswith(f"{build.unpackdir}/p-1/sub commit ")


@pytest.mark.parametrize("options", [";bareclone=1", ";nocheckout=1", ";subpath=sub", ";subdir=deep;bareclone=1"])
def test_git_sources_of_every_shape_count_with_the_recipes_revision(build: Build, tmp_path: Path, options: str) -> None:
    (tmp_path / "upstream/sub").mkdir(parents=True)
    (tmp_path / "upstream/sub/x").write_text("x")
    wanted = repository(tmp_path / "upstream", OLD)
    commit(tmp_path / "upstream", NEW)
    found = build.unpack(SRC_URI=git_uri(tmp_path / "upstream", wanted, options))
    assert (found.value, found.origin) == (OLD, "git")
    assert found.evidence.endswith(wanted)


def test_the_files_of_a_checkout_carry_no_times(build: Build, tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream/NEWS").write_text("x")
    revision = repository(tmp_path / "upstream", OLD)
    uri = git_uri(tmp_path / "upstream", revision)
    assert build.unpack(SRC_URI=uri, DETBUILD_EPOCH_SOURCES="known youngest fallback").origin == "fallback"


def test_a_repository_around_the_build_is_not_taken(build: Build, tmp_path: Path) -> None:
    repository(tmp_path, NEW)
    assert build.unpack(SRC_URI=build.tarball(MIDDLE)).origin == "youngest"


def test_the_sources_are_asked_in_the_order_that_the_recipe_names(build: Build) -> None:
    (build.layer / "NEWS").write_text("x")
    os.utime(build.layer / "NEWS", (OLD, OLD))
    uri = build.tarball(MIDDLE, "p-1", build.layer / "NEWS")
    assert build.unpack(SRC_URI=uri).origin == "known"
    assert build.unpack(DETBUILD_EPOCH_SOURCES="youngest known").value == MIDDLE


class TestEpochFile:
    @pytest.mark.parametrize("name", ["__source-date-epoch.txt", "__source_date_epoch.txt"])
    @pytest.mark.parametrize("options", ["", ";subdir=p-1", ";subdir=elsewhere"])
    def test_one_from_src_uri_counts(self, build: Build, name: str, options: str) -> None:
        uri = build.file(name, f"{OLD}\n") + options
        found = build.unpack(SRC_URI=f"{build.tarball(MIDDLE)} {uri}")
        assert (found.value, found.origin) == (OLD, "file")
        assert found.evidence.endswith(name)
        assert build.kept() == (OLD, OLD)

    def test_one_at_the_top_of_a_tarball_counts(self, build: Build) -> None:
        build.file("__source-date-epoch.txt", str(OLD))
        found = build.unpack(SRC_URI=build.tarball(MIDDLE, "p-1", build.layer / "__source-date-epoch.txt"))
        assert found.evidence == f"{build.unpackdir}/p-1/__source-date-epoch.txt"

    @pytest.mark.parametrize("text", ["", "soon", "-5", "99999999999"])
    def test_one_that_states_no_time_stops_the_task_and_leaves_no_epoch(
        self, build: Build, said: list[str], text: str
    ) -> None:
        build.unpack(SRC_URI=build.tarball(MIDDLE))
        uri = build.file("__source-date-epoch.txt", text)
        with pytest.raises(bb.BBHandledException):
            build.unpack(SRC_URI=f"{build.tarball(MIDDLE)} {uri}")
        assert f"{build.unpackdir}/__source-date-epoch.txt" in said[0]
        assert "Write the seconds since 1970" in said[0]
        assert not build.copy.exists()
        assert not Path(build.d.getVar("SDE_FILE")).exists()

    def test_one_that_the_recipes_own_unpack_wrote_counts_every_time(self, build: Build) -> None:
        uri = build.tarball(MIDDLE)
        for _ in range(2):
            found = build.unpack(lambda: build.copy.write_text(f"{OLD}\n"), SRC_URI=uri)
            assert (found.value, found.origin) == (OLD, "file")
        assert build.unpack(SRC_URI=uri).value == MIDDLE

    def test_detbuilds_own_copy_is_no_source_even_in_a_copied_build_directory(
        self, build: Build, tmp_path: Path
    ) -> None:
        build.unpack(SRC_URI=build.tarball(MIDDLE))
        shutil.move(build.work, tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", build.work)
        assert build.unpack(SRC_URI=build.tarball(OLD)).value == OLD


class TestStated:
    def test_a_recipe_that_sets_source_date_epoch_is_taken_at_its_word(self, build: Build) -> None:
        found = build.unpack(SRC_URI=build.tarball(MIDDLE), SOURCE_DATE_EPOCH="${@str(1400000000)}")
        assert found == epoch.Epoch(OLD, "file", f"{build.layer}/p_1.bb")
        assert build.kept() == (OLD, OLD)

    def test_a_word_from_the_far_future_stops_the_task(self, build: Build, said: list[str]) -> None:
        with pytest.raises(bb.BBHandledException):
            build.unpack(SOURCE_DATE_EPOCH="9" * 19)
        assert "far future" in said[0]

    def test_a_word_that_is_no_number_stops_the_task(self, build: Build, said: list[str]) -> None:
        with pytest.raises(bb.BBHandledException):
            build.unpack(SOURCE_DATE_EPOCH="tomorrow")
        assert "SOURCE_DATE_EPOCH says 'tomorrow', which is not a number" in said[0]

    @pytest.mark.parametrize(
        ("order", "complaint"), [("git mtime", "unknown source of the epoch: mtime"), (" ", "no source of the epoch")]
    )
    def test_an_order_that_makes_no_sense_stops_the_task(
        self, build: Build, said: list[str], order: str, complaint: str
    ) -> None:
        with pytest.raises(bb.BBHandledException):
            build.unpack(DETBUILD_EPOCH_SOURCES=order)
        assert complaint in said[0]


def test_warnings_reach_bitbake(build: Build, said: list[str]) -> None:
    build.unpack(SRC_URI=f"{build.tarball(MIDDLE)} {build.tarball(1, 'ancient')}")
    assert said == [f"SOURCE_DATE_EPOCH: left out, because dated before 1980: {build.unpackdir}/ancient/main.c"]


def test_what_oe_core_read_before_the_stamp_is_forgotten(build: Build) -> None:
    build.d.setVar("__CACHED_SOURCE_DATE_EPOCH", (str(FALLBACK), build.d.getVar("SDE_FILE")))
    build.unpack(SRC_URI=build.tarball(MIDDLE))
    assert build.d.getVar("__CACHED_SOURCE_DATE_EPOCH") is None


class TestExternalSource:
    @pytest.fixture(autouse=True)
    def _deltask(self, build: Build) -> None:
        build.d.delVarFlag("do_unpack", "task")

    def test_its_repository_counts_although_src_uri_names_none(self, build: Build, tmp_path: Path) -> None:
        repository(tmp_path / "mine", MIDDLE)
        found = build.deploy(EXTERNALSRC=tmp_path / "mine", S=tmp_path / "mine", SRC_URI="")
        assert (found.value, found.origin) == (MIDDLE, "git")

    def test_an_earlier_unpack_does_not_count(self, build: Build, tmp_path: Path) -> None:
        repository(build.unpackdir / "p-1", NEW)
        repository(tmp_path / "mine", MIDDLE)
        assert build.deploy(EXTERNALSRC=tmp_path / "mine", S=tmp_path / "mine").value == MIDDLE

    def test_a_directory_in_somebody_elses_repository_is_not_that_repository(
        self, build: Build, tmp_path: Path
    ) -> None:
        repository(tmp_path / "everything", NEW)
        source = tmp_path / "everything/part"
        source.mkdir()
        (source / "NEWS").write_text("x")
        os.utime(source / "NEWS", (OLD, OLD))
        assert build.deploy(EXTERNALSRC=source, S=source).origin == "known"

    def test_a_build_directory_inside_it_does_not_count(self, build: Build, tmp_path: Path) -> None:
        for name, date in (("mine/main.c", OLD), ("mine/build/main.o", NEW)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
            os.utime(tmp_path / name, (date, date))
        mine = tmp_path / "mine"
        assert build.deploy(EXTERNALSRC=mine, S=mine, B=mine / "build").value == OLD

    def test_a_second_run_gives_the_same(self, build: Build, tmp_path: Path) -> None:
        repository(tmp_path / "mine", MIDDLE)
        values = {build.deploy(EXTERNALSRC=tmp_path / "mine", S=tmp_path / "mine") for _ in range(2)}
        assert len(values) == 1


class TestDevtool:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A source as devtool leaves it: the upstream commit, tagged, and commits of devtool above."""
        tree = tmp_path / "workspace/sources/p"
        repository(tree, OLD)
        git(tree, "checkout", "-q", "-b", "devtool")
        git(tree, "tag", "devtool-base")
        (tree / "sub").mkdir()
        (tree / "sub/x").write_text("x")
        commit(tree, NEW, "a patch of the recipe")
        return tree

    @pytest.mark.parametrize("below", ["", "sub"])
    def test_the_upstream_commit_counts_also_where_s_is_a_subdirectory(
        self, build: Build, tree: Path, below: str
    ) -> None:
        build.d.delVarFlag("do_unpack", "task")
        found = build.deploy(EXTERNALSRC=tree / below, S=tree / below)
        assert (found.value, found.origin) == (OLD, "git")

    def test_of_an_archive_the_epoch_of_the_last_build_counts_time_and_again(
        self, build: Build, tmp_path: Path
    ) -> None:
        build.unpack(SRC_URI=build.tarball(MIDDLE))
        tree = tmp_path / "tree"
        repository(tree, NEW, "Initial commit from upstream at version 1")
        git(tree, "tag", "devtool-base")
        build.d.delVarFlag("do_unpack", "task")
        for _ in range(2):
            found = build.deploy(EXTERNALSRC=tree, S=tree, SRC_URI="")
            assert found == epoch.Epoch(MIDDLE, "file", build.d.getVar("SDE_FILE"))
            assert build.kept() == (MIDDLE, MIDDLE)


class TestSharedSource:
    def test_a_copy_is_made_where_another_task_brought_the_truth(self, build: Build) -> None:
        epoch.write(build.d.getVar("SDE_FILE"), MIDDLE)
        assert recipe.restore(build.d) == MIDDLE
        assert build.kept() == (MIDDLE, MIDDLE)

    def test_the_truth_of_oe_core_itself_is_understood(self, build: Build) -> None:
        truth = Path(build.d.getVar("SDE_FILE"))
        truth.parent.mkdir(parents=True)
        truth.write_text(str(MIDDLE))
        assert recipe.restore(build.d) == MIDDLE
        assert build.kept() == (MIDDLE, MIDDLE)

    def test_a_copy_that_says_something_else_follows_the_truth(self, build: Build) -> None:
        build.unpack(SRC_URI=build.tarball(OLD))
        epoch.write(build.d.getVar("SDE_FILE"), MIDDLE)
        recipe.restore(build.d)
        assert build.kept() == (MIDDLE, MIDDLE)

    def test_a_copy_that_is_right_is_left_alone(self, build: Build) -> None:
        build.unpack(SRC_URI=build.tarball(OLD))
        before = build.copy.stat().st_ino
        recipe.restore(build.d)
        assert build.copy.stat().st_ino == before

    def test_without_a_truth_nothing_is_made(self, build: Build) -> None:
        assert recipe.restore(build.d) is None
        assert not build.work.exists()

    def test_a_truth_that_states_no_time_stops_the_task(self, build: Build, said: list[str]) -> None:
        truth = Path(build.d.getVar("SDE_FILE"))
        truth.parent.mkdir(parents=True)
        truth.write_text("")
        with pytest.raises(bb.BBHandledException):
            recipe.restore(build.d)
        assert str(truth) in said[0]

    def test_users_of_the_kernels_source_get_the_kernels_epoch(self, build: Build, tmp_path: Path) -> None:
        shared = tmp_path / "work-shared/machine/kernel-source"
        build.set(STAGING_KERNEL_DIR=shared)
        build.d.setVar("__inherit_cache", ["classes/kernel.bbclass"])
        build.unpack(SRC_URI=build.tarball(MIDDLE))
        # kernel.bbclass moves the source, and do_patch then touches it.
        shutil.move(build.unpackdir / "p-1", shared)
        (shared / "main.c").write_text("patched now")
        (tmp_path / "perf").mkdir()
        perf = Build(tmp_path / "perf")
        perf.d.delVarFlag("do_unpack", "task")
        perf.d.setVar("__inherit_cache", ["classes/kernelsrc.bbclass"])
        found = perf.deploy(S=shared, STAGING_KERNEL_DIR=shared)
        assert (found.value, found.origin) == (MIDDLE, "file")
        assert perf.kept() == (MIDDLE, MIDDLE)

    def test_users_of_a_shared_unpack_directory_get_the_epoch_of_its_recipe(self, build: Build, tmp_path: Path) -> None:
        build.unpack(SRC_URI=build.tarball(MIDDLE))
        (build.unpackdir / "p-1/main.c").write_text("patched now")
        (tmp_path / "libstd").mkdir()
        user = Build(tmp_path / "libstd")
        user.d.delVarFlag("do_unpack", "task")
        assert user.deploy(UNPACKDIR=build.unpackdir, S=build.unpackdir / "p-1").evidence == str(build.copy)
        assert user.kept() == (MIDDLE, MIDDLE)

    def test_a_kernel_that_leaves_detbuild_leaves_no_old_epoch_for_the_users_of_its_source(
        self, build: Build, tmp_path: Path
    ) -> None:
        shared = tmp_path / "work-shared/machine/kernel-source"
        build.set(STAGING_KERNEL_DIR=shared)
        build.d.setVar("__inherit_cache", ["classes/kernel.bbclass"])
        shared.mkdir(parents=True)
        build.unpack()
        beside = Path(f"{shared}{epoch.FILE_NAMES[0]}")
        assert beside.exists()
        recipe.forget_copies(build.d)
        assert not beside.exists()
        assert not build.copy.exists()
        build.copy.write_text("somebody else's")
        recipe.forget_copies(build.d)
        assert build.copy.exists()

    def test_a_kernel_from_sstate_leaves_its_epoch_for_the_users_of_its_source(
        self, build: Build, tmp_path: Path
    ) -> None:
        (tmp_path / "shared").mkdir()
        build.set(STAGING_KERNEL_DIR=tmp_path / "shared/kernel-source")
        build.d.setVar("__inherit_cache", ["classes/kernel.bbclass"])
        epoch.write(build.d.getVar("SDE_FILE"), MIDDLE)
        recipe.restore(build.d)
        (beside,) = (tmp_path / "shared").iterdir()
        assert epoch.read(str(beside)) == MIDDLE


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("crate://example.com/glob/0.2.11", "cargo_home/bitbake"),
        ("gomod://example.com/net;version=v0.9.0", "pkg/mod/cache"),
        ("svn://example.com/svn;module=trunk;protocol=http;rev=1", "trunk"),
        ("svn://example.com/svn;module=trunk;path_spec=there;protocol=http;rev=1", "there"),
        ("hg://example.com/hg;module=project;rev=1", "project"),
        ("hg://example.com/hg;module=project;rev=1;destsuffix=there", "there"),
        ("repo://example.com/manifest", ""),
        ("https://example.com/plain.txt", "plain.txt"),
        ("https://example.com/plain.txt;downloadfilename=other.txt;subdir=x", "x/other.txt"),
        ("https://example.com/fix.patch.xz", "fix.patch"),
        ("https://example.com/p-1.tar.xz;unpack=no", "p-1.tar.xz"),
        ("https://example.com/p-1.tar.xz", None),
        ("https://example.com/p-1.zip", None),
        ("file:///absolute/file.txt", "absolute/file.txt"),
    ],
)
def test_each_fetcher_writes_where_bitbake_says(build: Build, uri: str, expected: str | None) -> None:
    fetcher = bb.fetch2.Fetch([uri], build.d)
    fetcher.ud[uri].setup_localpath(build.d)
    unpacked = Unpacked.of([fetcher.ud[uri]], Recipe("/u", "p-1"))
    assert {path.rstrip("/") for path in unpacked.written} == (
        set() if expected is None else {os.path.join("/u", expected).rstrip("/")}
    )


def test_the_crate_that_is_the_recipes_own_source_is_an_archive(build: Build) -> None:
    uri = "crate://example.com/glob/0.2.11"
    fetcher = bb.fetch2.Fetch([uri], build.d)
    assert Unpacked.of([fetcher.ud[uri]], Recipe("/u", "glob-0.2.11")).written == frozenset()
