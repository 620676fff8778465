# SPDX-License-Identifier: MIT
"""The programs that leaked, from the audit records that the class collected, or left in a build's work directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detbuild import audits, exposure
from detbuild.compare.model import Finding
from detbuild.errors import DetbuildError

# Which reads can make which cause: the beginnings of calls and files as records name them.
_SOURCES = {
    "timestamp": ("clock", "time", "gettimeofday", "stat", "statx", "newfstatat", "fstat", "lstat", "adjtime"),
    "archive-metadata": ("stat", "statx", "newfstatat", "fstat", "lstat", "clock", "time"),
    "random": ("getrandom", "/dev/urandom", "/dev/random", "AT_RANDOM", "clock", "time"),
    "hash-seed": ("getrandom", "/dev/urandom", "AT_RANDOM"),
    "host-name": ("uname", "gethostname", "/etc/hostname", "/proc/sys/kernel"),
    "kernel-version": ("uname", "/proc/version", "/proc/sys/kernel"),
    "process-id": ("getpid", "gettid", "getppid"),
    "build-path": ("build path",),
    "user": ("getuid", "geteuid", "getgid"),
}


@dataclass(frozen=True)
class Leak:
    recipe: str
    task: str
    chain: str
    source: str
    remedy: str
    count: int

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        said = f"{self.chain} read {self.source} (leaked {times}: {self.remedy})"
        return f"from recipe {self.recipe}, {self.task}: {said}"


class Audits:
    """Every leak on record, by recipe."""

    def __init__(self, directories: Sequence[Path], trees: Sequence[Path] = ()) -> None:
        """`directories` hold records somewhere below; of `trees` inside a build, its collection is looked at, or else
        its work directory."""
        self.warnings: list[str] = []
        self._leaks: dict[str, list[Leak]] = {}
        for directory in directories:
            self._read(sorted(directory.glob("**/temp/detbuild.do_*.json")) or audits.paths(directory))
        for tree in trees:
            found = collection_of(tree) or work_of(tree)
            self._read(audits.paths(found) if found else ())

    def _read(self, paths: Iterable[Path]) -> None:
        for path in paths:
            where = audits.name(path)
            try:
                audit = audits.load(path)
            except (OSError, DetbuildError) as error:
                self.warnings.append(f"{path}: no audit can be read from it: {error}")
                continue
            counts: Counter[tuple[str, str, str]] = Counter()
            for read, count in sorted(audit.leaks.items()):
                counts[read.chain, read.source, exposure.remedy(audit, read, where.task)] += count
            leaks = self._leaks.setdefault(where.recipe, [])
            leaks += [Leak(where.target, where.task, *key, count) for key, count in counts.most_common()]

    def culprits(self, finding: Finding) -> list[str]:
        """In words, the leaks of the finding's recipe that can have made its first cause."""
        # An image's own recipe comes after those of the files in it.
        recipes = [] if finding.package else [recipe for _package, recipe in finding.owners.values()]
        recipes.append(finding.recipe)
        wanted = _SOURCES.get(finding.cause or "", ())
        leaks = [leak for recipe in dict.fromkeys(recipes) for leak in self._leaks.get(recipe or "", ())]
        return list(dict.fromkeys(str(leak) for leak in leaks if leak.source.startswith(wanted)))[:5] if wanted else []


def collection_of(tree: Path) -> Path | None:
    """Where the class collected the records of the build that a deploy tree belongs to; it may be a copy."""
    for parent in (tree.resolve(), *tree.resolve().parents):
        for directory in (parent / audits.DIRECTORY, parent / "deploy" / audits.DIRECTORY):
            if directory.is_dir():
                return directory
    return None


def work_of(tree: Path) -> Path | None:
    """The work directory of the TMPDIR that a deploy tree stands in."""
    for parent in tree.resolve().parents:
        if (parent / "work").is_dir() and (parent / "deploy").is_dir():
            return parent / "work"
    return None
