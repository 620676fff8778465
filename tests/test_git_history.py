"""Which commit dates a source: real repositories in every state a build meets them in."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detbuild.epoch import Epoch, Sources, resolve
from detbuild.errors import EpochError
from epoch_repositories import commit, git, repository

OLD, MIDDLE, NEW = 1_400_000_000, 1_500_000_000, 1_600_000_000
NOW = 1_700_000_000.0
NOBODY = 65534


def epoch_of(top: Path, *order: str, **fields: object) -> Epoch:
    return resolve(Sources(str(top), **fields), order or ("git", "fallback"), NOW)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def test_the_commit_is_the_evidence(tmp_path: Path) -> None:
    sha = repository(tmp_path / "s", MIDDLE)
    found = epoch_of(tmp_path / "s")
    assert found == Epoch(MIDDLE, "git", f"{tmp_path}/s commit {sha}")


@pytest.mark.parametrize("dates", list(itertools.permutations((OLD, MIDDLE, NEW))))
def test_the_newest_of_several_repositories_wins_in_any_order(tmp_path: Path, dates: tuple[int, int, int]) -> None:
    for number, date in enumerate(dates):
        repository(tmp_path / str(number), date)
    assert epoch_of(tmp_path).value == NEW


def test_the_committers_date_counts_and_not_the_authors(tmp_path: Path) -> None:
    repository(tmp_path, OLD)
    git(tmp_path, "commit", "-q", "--allow-empty", "--date", f"@{NEW} +0000", "-m", "rebased", date=MIDDLE)
    assert epoch_of(tmp_path).value == MIDDLE


def test_a_newer_submodule_wins(tmp_path: Path) -> None:
    repository(tmp_path / "library", NEW)
    repository(tmp_path / "top", OLD)
    git(tmp_path / "top", "submodule", "--quiet", "add", str(tmp_path / "library"), "sub")
    git(tmp_path / "top", "commit", "-q", "-m", "submodule", date=MIDDLE)
    assert (tmp_path / "top/sub/.git").is_file()
    found = epoch_of(tmp_path / "top")
    assert found.value == NEW
    assert found.evidence.startswith(f"{tmp_path}/top/sub commit ")


def test_a_worktree_has_its_own_head(tmp_path: Path) -> None:
    repository(tmp_path / "main", OLD)
    git(tmp_path / "main", "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    commit(tmp_path / "side", MIDDLE)
    assert (tmp_path / "side/.git").is_file()
    assert epoch_of(tmp_path / "side").value == MIDDLE
    assert epoch_of(tmp_path / "main").value == OLD


def test_a_shallow_clone_has_its_one_commit(tmp_path: Path) -> None:
    repository(tmp_path / "origin", OLD)
    commit(tmp_path / "origin", NEW)
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{tmp_path}/origin", "clone")
    assert (tmp_path / "clone/.git/shallow").is_file()
    assert epoch_of(tmp_path / "clone").value == NEW


def test_a_shared_clone_reads_the_objects_of_its_origin(tmp_path: Path) -> None:
    repository(tmp_path / "origin", MIDDLE)
    git(tmp_path, "clone", "-q", "-s", "origin", "clone")
    assert epoch_of(tmp_path / "clone").value == MIDDLE


def test_a_detached_head_counts_and_not_the_branch(tmp_path: Path) -> None:
    first = repository(tmp_path, OLD)
    commit(tmp_path, NEW)
    git(tmp_path, "checkout", "-q", "--detach", first)
    assert epoch_of(tmp_path).value == OLD


def test_a_repository_of_sha256_is_read(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256")
    assert len(commit(tmp_path, MIDDLE)) == 64
    assert epoch_of(tmp_path).value == MIDDLE


def test_a_repository_without_a_commit_is_passed_over_in_silence(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    found = epoch_of(tmp_path)
    assert (found.origin, found.warnings) == ("fallback", ())


def break_objects(dotgit: Path) -> None:
    shutil.rmtree(dotgit / "objects")
    (dotgit / "objects").mkdir()


def break_branch(dotgit: Path) -> None:
    (dotgit / "refs/heads/main").write_text("garbage\n")


def break_head(dotgit: Path) -> None:
    (dotgit / "HEAD").unlink()


def empty_it(dotgit: Path) -> None:
    shutil.rmtree(dotgit)
    dotgit.mkdir()


def dangle(dotgit: Path) -> None:
    shutil.rmtree(dotgit)
    dotgit.write_text("gitdir: ../nowhere\n")


@pytest.mark.parametrize("damage", [break_objects, break_branch, break_head, empty_it, dangle])
def test_a_corrupt_repository_is_named_and_the_next_source_asked(tmp_path: Path, damage: object) -> None:
    # The repository around it must not answer in its place.
    repository(tmp_path, NEW)
    repository(tmp_path / "s", MIDDLE)
    damage(tmp_path / "s/.git")  # type: ignore[operator]
    news = tmp_path / "s/NEWS"
    news.write_text("news")
    os.utime(news, (OLD, OLD))
    found = epoch_of(tmp_path / "s", "git", "known")
    assert (found.value, found.origin) == (OLD, "known")
    assert len(found.warnings) == 1
    assert f"the repository {tmp_path}/s was left out" in found.warnings[0]


def test_a_corrupt_repository_does_not_hide_a_sound_one(tmp_path: Path) -> None:
    repository(tmp_path / "bad", NEW)
    break_head(tmp_path / "bad/.git")
    repository(tmp_path / "good", OLD)
    found = epoch_of(tmp_path)
    assert found.value == OLD
    assert "bad" in found.warnings[0]


def test_a_repository_that_merely_encloses_the_directory_is_not_taken(tmp_path: Path) -> None:
    repository(tmp_path, NEW)
    inside = tmp_path / "build/tmp/work"
    inside.mkdir(parents=True)
    assert epoch_of(inside) == Epoch(1302044400, "fallback", "SOURCE_DATE_EPOCH_FALLBACK")


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"])
def test_variables_of_a_git_hook_do_not_lead_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    repository(tmp_path / "other", NEW)
    repository(tmp_path / "s", OLD)
    other = {"GIT_WORK_TREE": "other", "GIT_OBJECT_DIRECTORY": "other/.git/objects"}.get(name, "other/.git")
    monkeypatch.setenv(name, str(tmp_path / other))
    assert epoch_of(tmp_path / "s").value == OLD


def test_a_relative_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "a/s", MIDDLE)
    monkeypatch.chdir(tmp_path)
    assert epoch_of(Path("a/s")).value == MIDDLE


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a repository to another user")
def test_a_repository_of_another_user_is_read_without_safe_directory(tmp_path: Path) -> None:
    repository(tmp_path, MIDDLE)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(Exception, match="exit status 128"):
        git(tmp_path, "log")
    found = epoch_of(tmp_path)
    assert (found.value, found.warnings) == (MIDDLE, ())
    assert not Path(os.environ["HOME"], ".gitconfig").exists()


def test_nothing_that_a_repository_configures_is_run(tmp_path: Path) -> None:
    repository(tmp_path / "s", MIDDLE)
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for key in ("core.pager", "gpg.program", "core.fsmonitor", "core.sshCommand", "credential.helper"):
        git(tmp_path / "s", "config", key, str(trap))
    git(tmp_path / "s", "config", "log.showSignature", "true")
    assert epoch_of(tmp_path / "s").value == MIDDLE
    assert not (tmp_path / "sprung").exists()


def test_what_a_partial_clone_lacks_is_not_fetched(tmp_path: Path) -> None:
    repository(tmp_path / "origin", OLD)
    git(tmp_path / "origin", "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{tmp_path}/origin", "clone")
    lacking = commit(tmp_path / "origin", MIDDLE)
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(tmp_path / "clone", "config", "remote.origin.uploadpack", str(trap))
    found = epoch_of(tmp_path / "clone", revisions={str(tmp_path / "clone"): lacking})
    assert found.origin == "fallback"
    assert f"{tmp_path}/clone was left out" in found.warnings[0]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(("date", "why"), [(int(NOW) + 10**8, "in the future"), (86400, "before 1980")])
def test_a_commit_nobody_can_believe_is_left_out_and_named(tmp_path: Path, date: int, why: str) -> None:
    repository(tmp_path / "odd", date)
    repository(tmp_path / "sound", OLD)
    found = epoch_of(tmp_path)
    assert found.value == OLD
    assert f"{tmp_path}/odd" in found.warnings[0]
    assert why in found.warnings[0]


def test_a_mirror_counts_with_the_revision_of_the_recipe_and_not_with_its_head(tmp_path: Path) -> None:
    wanted = repository(tmp_path / "origin", OLD)
    commit(tmp_path / "origin", NEW)
    git(tmp_path, "clone", "-q", "--mirror", "origin", "s/vcs")
    assert epoch_of(tmp_path / "s").origin == "fallback"
    assert epoch_of(tmp_path / "s", revisions={str(tmp_path / "s/vcs"): wanted}).value == OLD


def test_a_clone_without_checkout_counts_with_the_revision_of_the_recipe(tmp_path: Path) -> None:
    wanted = repository(tmp_path / "origin", OLD)
    commit(tmp_path / "origin", NEW)
    git(tmp_path, "clone", "-q", "-n", "origin", "s")
    assert epoch_of(tmp_path / "s", revisions={str(tmp_path / "s"): wanted}).value == OLD


class TestDevtool:
    """devtool's own steps, as setup_git_repo() and upgrade of OE-Core's scripts/lib/devtool take them."""

    EXTRACTED = 1_650_000_000

    def of_git(self, top: Path) -> None:
        repository(top, OLD)
        git(top, "checkout", "-q", "-b", "devtool")
        git(top, "tag", "-f", "devtool-base")
        commit(top, self.EXTRACTED, "a patch of the recipe")

    def of_archive(self, top: Path) -> None:
        repository(top, self.EXTRACTED, "Initial commit from upstream at version 1.0")
        git(top, "checkout", "-q", "-b", "devtool")
        git(top, "tag", "-f", "devtool-base")
        commit(top, self.EXTRACTED + 1, "a patch of the recipe")

    def test_the_upstream_commit_counts(self, tmp_path: Path) -> None:
        self.of_git(tmp_path)
        found = epoch_of(tmp_path)
        assert found.value == OLD
        assert found.evidence.endswith(git(tmp_path, "rev-parse", "devtool-base"))

    def test_after_an_upgrade_the_new_upstream_commit_counts(self, tmp_path: Path) -> None:
        self.of_git(tmp_path)
        git(tmp_path, "checkout", "-q", "main")
        commit(tmp_path, MIDDLE)
        git(tmp_path, "tag", "-f", "devtool-base-new")
        git(tmp_path, "checkout", "-q", "-B", "devtool")
        commit(tmp_path, self.EXTRACTED, "the patch, rebased")
        assert epoch_of(tmp_path).value == MIDDLE

    def test_of_an_archive_the_recipes_last_epoch_counts(self, tmp_path: Path) -> None:
        self.of_archive(tmp_path)
        found = epoch_of(tmp_path, last=("/sde", MIDDLE))
        assert found == Epoch(MIDDLE, "file", "/sde")

    def test_a_last_epoch_that_is_devtools_own_commit_is_not_taken(self, tmp_path: Path) -> None:
        self.of_archive(tmp_path)
        assert epoch_of(tmp_path, last=("/sde", self.EXTRACTED)).origin == "fallback"

    def test_the_last_epoch_is_for_devtool_trees_alone(self, tmp_path: Path) -> None:
        assert epoch_of(tmp_path, last=("/sde", MIDDLE)).origin == "fallback"

    def test_without_a_last_epoch_files_older_than_the_extraction_count(self, tmp_path: Path) -> None:
        self.of_archive(tmp_path)
        for name, date in (("upstream.c", MIDDLE), ("file", self.EXTRACTED), ("edited.c", self.EXTRACTED + 60)):
            (tmp_path / name).write_text(name)
            os.utime(tmp_path / name, (date, date))
        found = epoch_of(tmp_path, "git", "youngest")
        assert (found.value, found.evidence) == (MIDDLE, f"{tmp_path}/upstream.c")
        assert found.warnings == ()

    def test_an_upgraded_archive_has_no_upstream_commit_either(self, tmp_path: Path) -> None:
        self.of_archive(tmp_path)
        commit(tmp_path, self.EXTRACTED + 5, "Commit of upstream changes at version 2.0")
        git(tmp_path, "tag", "-f", "devtool-base-2.0")
        assert epoch_of(tmp_path).origin == "fallback"

    def test_a_submodule_of_a_devtool_tree_counts_with_its_own_base(self, tmp_path: Path) -> None:
        self.of_git(tmp_path)
        self.of_git(tmp_path / "sub")
        git(tmp_path / "sub", "checkout", "-q", "-B", "devtool", "devtool-base")
        commit(tmp_path / "sub", NEW, "mine")
        assert epoch_of(tmp_path).value == OLD


@pytest.mark.oe
@pytest.mark.parametrize("kind", ["archive", "repository"])
def test_what_devtool_itself_makes_is_known(tmp_path: Path, kind: str) -> None:
    oe = Path(os.environ.get("DETBUILD_OE_ROOT", "/opt/oe"))
    libraries = [oe / "bitbake/lib", oe / "openembedded-core/scripts/lib", oe / "openembedded-core/meta/lib"]
    if not all(path.is_dir() for path in libraries):
        pytest.skip(f"no BitBake and OE-Core in {oe}; name another place in DETBUILD_OE_ROOT")
    if kind == "repository":
        repository(tmp_path, OLD)
    (tmp_path / "main.c").write_text("x")
    os.utime(tmp_path / "main.c", (MIDDLE, MIDDLE))
    script = (
        "import sys, devtool\n"
        "class D:\n"
        "    def getVar(self, name): return {'PATCH_GIT_USER_NAME': 'A', 'PATCH_GIT_USER_EMAIL': 'a@b'}.get(name)\n"
        "devtool.setup_git_repo(sys.argv[1], '1.0', 'devtool', d=D())\n"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, libraries))}
    subprocess.run(["/usr/bin/python3", "-c", script, tmp_path], env=environment, check=True)
    found = resolve(Sources(str(tmp_path)), ("git", "youngest"))
    assert (found.value, found.origin) == ((OLD, "git") if kind == "repository" else (MIDDLE, "youngest"))


def test_git_that_is_not_installed_is_said_and_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path, MIDDLE)
    monkeypatch.setitem(sys.modules, "git", None)
    with pytest.raises(EpochError, match="python3-git"):
        epoch_of(tmp_path)


def test_gitpython_is_not_wanted_where_there_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "git", None)
    assert epoch_of(tmp_path).origin == "fallback"


def test_a_directory_that_vanishes_during_the_search_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "a", OLD)
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def vanish(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("/gone"):
            os.rmdir(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    found = epoch_of(tmp_path)
    assert (found.value, found.warnings) == (OLD, ())
