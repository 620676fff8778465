# SPDX-License-Identifier: MIT
"""The repositories below a directory, and the newest commit of them all.

git runs through GitPython, always with the repository named explicitly: so a damaged ``.git`` never leads git to a
repository that merely encloses it, and a repository of another user is read without an entry in safe.directory,
which git asks for only where it searched for the repository itself. Of a repository of somebody else nothing is
run: only plumbing that calls no hook, filter, pager or signature program and fetches nothing is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from detbuild.errors import EpochError
from detbuild.paths import Walk, printable

ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
BASE_TAGS = "refs/tags/devtool-base*"
DEVTOOL_SUBJECTS = re.compile(
    "Initial commit from upstream|Initial empty commit with no upstream sources|Commit of upstream changes at version"
)
"""Commits that devtool makes of an archive (OE-Core's scripts/lib/devtool: setup_git_repo and upgrade)."""


class Commit(NamedTuple):
    """``date`` is the committer's, in seconds."""

    date: int
    sha: str
    repository: str


@dataclass(frozen=True)
class History:
    """``extracted`` is the moment, in seconds, at which devtool made a repository of an archive, if it did."""

    newest: Commit | None = None
    extracted: int | None = None
    warnings: tuple[str, ...] = ()


class _Unreadable(Exception):
    """What git said about a repository that it cannot read."""


def survey(walks: Iterable[Walk], revisions: Mapping[str, str], believed: range) -> History:
    """The newest commit over every repository of the walks, and over those that ``revisions`` names.

    Of a devtool tree that is the upstream commit it was made from. ``revisions`` gives, for repositories without
    a checkout, the commit to look at instead of HEAD. A commit whose date is not in ``believed`` (seconds) is left
    out and named, like a repository that git cannot read. Raises EpochError where there are repositories
    but no git or no GitPython.
    """
    wanted = {os.path.realpath(path): revision for path, revision in revisions.items() if os.path.isdir(path)}
    found = [directory.path for walk in walks for directory in walk.directories if directory.is_repository]
    places = {os.path.realpath(path): path for path in [*wanted, *found]}
    warnings: list[str] = []
    commits: list[Commit] = []
    extractions: list[int] = []
    for real, place in sorted(places.items()):
        repository = _Repository(place)
        try:
            commit = repository.commit(wanted[real]) if real in wanted else repository.upstream()
        except _Unreadable as error:
            warnings.append(f"the repository {printable(place)} was left out, because git cannot read it: {error}")
            continue
        if repository.extracted is not None:
            extractions.append(repository.extracted)
        if commit and commit.date in believed:
            commits.append(commit)
        elif commit:
            when = "in the future" if commit.date >= believed.stop else "before 1980"
            warnings.append(f"the repository {printable(place)} was left out: its commit {commit.sha} is dated {when}")
    return History(max(commits, default=None), min(extractions, default=None), tuple(warnings))


def devtool_top(directory: str) -> str:
    """The top of the devtool tree that ``directory`` lies in; empty where it lies in none.

    A recipe whose S is a subdirectory of its source has EXTERNALSRC below the repository that devtool made for it.
    """
    path = os.path.realpath(directory)
    while not os.path.lexists(os.path.join(path, ".git")):
        parent = os.path.dirname(path)
        if parent == path:
            return ""
        path = parent
    try:
        return path if _Repository(path).bases() else ""
    except _Unreadable:
        return ""


class _Repository:
    def __init__(self, path: str) -> None:
        self.path = path
        self.extracted: int | None = None
        dotgit = os.path.join(path, ".git")
        self._directory = os.path.abspath(dotgit if os.path.lexists(dotgit) else path)
        self._git = _git().Git(path)

    def commit(self, revision: str) -> Commit | None:
        """The commit that ``revision`` names; None where the repository has no commit yet."""
        status, out, error = self._run("rev-list", "--no-walk", "--timestamp", revision, "--")
        if status == 0:
            date, sha = out.split()
            return Commit(int(date), sha, self.path)
        if self._is_unborn():
            return None
        raise _Unreadable(error)

    def upstream(self) -> Commit | None:
        """HEAD; in a devtool tree the upstream commit it is based on, or None where devtool made its base itself."""
        bases = self.bases()
        if not bases:
            return self.commit("HEAD")
        made = [commit for commit, subject in bases if DEVTOOL_SUBJECTS.match(subject)]
        upstream = [commit for commit, subject in bases if commit not in made]
        self.extracted = None if upstream else max(made).date
        return max(upstream, default=None)

    def bases(self) -> list[tuple[Commit, str]]:
        """The commits that devtool tagged as its base, with their subjects: those below HEAD, or else all of them."""
        tags = self._tags("--merged=HEAD") or self._tags()
        if not tags:
            return []
        status, out, error = self._run("rev-list", "--no-walk", "--format=%ct %H %s", *tags, "--")
        if status:
            raise _Unreadable(error)
        rows = [line.split(" ", 2) for line in out.split("\n") if not line.startswith("commit ")]
        return [(Commit(int(date), sha, self.path), subject) for date, sha, subject in rows]

    def _tags(self, *options: str) -> list[str]:
        _, out, _ = self._run("for-each-ref", "--format=%(refname)", *options, BASE_TAGS)
        return out.split()

    def _is_unborn(self) -> bool:
        status, _, _ = self._run("rev-parse", "--quiet", "--verify", "HEAD")
        _, _, error = self._run("for-each-ref", "--count=1")
        return status == 1 and not error

    def _run(self, *arguments: str) -> tuple[int, str, str]:
        command = [*_clean(), "git", f"--git-dir={self._directory}", *arguments]
        status, out, error = self._git.execute(
            command, with_extended_output=True, with_exceptions=False, env=ENVIRONMENT
        )
        return status, str(out), printable(str(error).partition("\n")[0])


def _clean() -> list[str]:
    # Inside a git hook GIT_OBJECT_DIRECTORY and others point elsewhere, and GitPython can set variables only.
    inherited = [f"--unset={name}" for name in os.environ if name.startswith("GIT_") and name not in ENVIRONMENT]
    return ["env", *inherited] if inherited else []


def _git() -> ModuleType:
    try:
        import git
    except ImportError as error:
        raise EpochError(
            "the source's git repositories cannot be read",
            cause=str(error).strip().partition("\n")[0],
            remedy="install git and GitPython (Debian: git python3-git), or drop git from the epoch's sources",
        ) from error
    return git
