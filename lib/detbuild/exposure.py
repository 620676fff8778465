# SPDX-License-Identifier: MIT
"""What a build's tasks still take from the outside world, and through which programs: the worst first."""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detbuild import policy, programs
from detbuild.audit import BUILD_PATH, COUNTER, FIXED, HEAP_KEY, LEAKED, PASSED, TASK, Audit, Gap, Read
from detbuild.audits import Place
from detbuild.policy import Treatment

FORMAT = "detbuild-exposure"
VERSION = 1

GAP = "gap"
OWN = "own"  # by the process that runs a task, BitBake's: it is real in every task, and not a leak of the recipe
LIBC = "libc"  # by the C library for itself: nothing is made of it
_KINDS = (GAP, LEAKED, OWN, LIBC, PASSED, FIXED)  # the worst first
_UNFIXABLE = {
    "ptrace": "make it outside the debugger",
    COUNTER: "no policy fixes it, Go walks through maps in its order",
    BUILD_PATH: "no policy changes a path, have the recipe name the target's own",
}
# SSTATETASKS of OE-Core: their output is published before a session's end is known (classes/detbuild.bbclass).
_SHARED = frozenset(
    [
        "do_collect_packagedata",
        "do_create_image_sbom_spdx",
        "do_create_image_spdx",
        "do_create_package_spdx",
        "do_create_recipe_sbom",
        "do_create_recipe_spdx",
        "do_create_rootfs_spdx",
        "do_create_spdx",
        "do_deploy",
        "do_deploy_archives",
        "do_deploy_source_date_epoch",
        "do_gcc_stash_builddir",
        "do_image_complete",
        "do_image_qa",
        "do_locked_sigs",
        "do_package",
        "do_package_qa",
        "do_package_write_deb",
        "do_package_write_ipk",
        "do_package_write_rpm",
        "do_packagedata",
        "do_populate_lic",
        "do_populate_sdk",
        "do_populate_sdk_ext",
        "do_populate_sysroot",
        "do_recipe_qa",
        "do_sbom_cve_check",
        "do_sbom_cve_check_recipe",
        "do_stash_locale",
    ]
)


@dataclass(frozen=True)
class Finding:
    """One gap, or one kind of read, of one task. ``kind`` is one of gap, leaked, own, libc, passed and fixed.

    ``count`` is how often; ``more`` how many other programs of the task read the same, where they are summed up in it.
    """

    recipe: str
    task: str
    kind: str
    what: Read | Gap
    count: int
    remedy: str = ""
    more: int = 0

    @property
    def saying(self) -> str:
        """Who did what: ``mkversion.sh <- make read time``."""
        if isinstance(self.what, Gap):
            return f"{self.what.kind}: {self.what.detail}"
        more = f" and {self.more} more" if self.more else ""
        return f"{self.what.chain}{more} read {self.what.source}"

    @property
    def verdict(self) -> str:
        """Its kind, how often where that is more than once, and what to do."""
        often = f" {self.count} times" if self.count > 1 else ""
        return f"{self.kind}{often}" + (f": {self.remedy}" if self.remedy else "")

    def to_dict(self) -> dict[str, Any]:
        head = {"recipe": self.recipe, "task": self.task, "kind": self.kind}
        if isinstance(self.what, Gap):
            return {
                **head,
                "gap": self.what.kind,
                "detail": self.what.detail,
                "count": self.count,
                "remedy": self.remedy,
            }
        read = {key: value for key, value in self.what._asdict().items() if key != "outcome"}
        return {**head, **read, "parents": list(self.what.parents), "count": self.count, "remedy": self.remedy}


@dataclass
class Exposure:
    """Of all records that were added. ``notes`` say what records leave out, ``records`` counts them."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    recipes: set[str] = field(default_factory=set)

    def add(self, where: Place, audit: Audit) -> None:
        self.records += 1
        self.recipes.add(where.target)
        task = where.task
        self.findings += [
            Finding(where.target, task, GAP, gap, count, _gap_remedy(gap)) for gap, count in audit.gaps.items()
        ]
        self.findings += [
            Finding(where.target, task, kind(read), read, count, remedy(audit, read, task))
            for read, count in audit.reads.items()
        ]
        owner = " ".join(part for part in (where.target, task) if part) or where.path.name
        self.notes += [f"{owner}: {note}" for note in (*audit.notes(), *audit.outlived())]

    def of(self, kinds: Iterable[str], *, arguments: bool) -> list[Finding]:
        """The findings of some kinds, recipes with most gaps and then most leaks first.

        Without ``arguments`` runs of one program that differ in nothing else are one finding, and so are those that
        make started at different depths.
        """
        wanted = [finding for finding in self.findings if finding.kind in kinds]
        return self._sorted(wanted if arguments else _added_up(map(_shortened, wanted)))

    def by_source(self, kinds: Iterable[str]) -> list[Finding]:
        """One finding for each task and source: the program that read it most often stands for all that did."""
        folded: dict[object, Finding] = {}
        for finding in self.of(kinds, arguments=False):
            what = finding.what
            source = what.source if isinstance(what, Read) else what
            key = (finding.recipe, finding.task, finding.kind, source, finding.remedy)
            first = folded.get(key)
            folded[key] = replace(first, count=first.count + finding.count, more=first.more + 1) if first else finding
        return self._sorted(folded.values())

    def _sorted(self, findings: Iterable[Finding]) -> list[Finding]:
        weight: dict[str, Counter[str]] = {recipe: Counter() for recipe in self.recipes}
        for finding in self.findings:
            weight[finding.recipe][finding.kind] += finding.count

        def worst(finding: Finding) -> tuple[Any, ...]:
            own = weight[finding.recipe]
            recipe = (-own[GAP], -own[LEAKED], finding.recipe)
            return (*recipe, finding.task, _KINDS.index(finding.kind), -finding.count, tuple(finding.what))

        return sorted(findings, key=worst)

    @property
    def exposed(self) -> list[str]:
        """The recipes with a gap or a leak."""
        return sorted({finding.recipe for finding in self.findings if finding.kind in (GAP, LEAKED)})

    def summed_up(self, kind: str) -> tuple[set[str], Counter[str]]:
        """In which recipes there are findings of a kind, and how often each source was read in them."""
        found = [finding for finding in self.findings if finding.kind == kind]
        counts: Counter[str] = Counter()
        for finding in found:
            counts[finding.what.source if isinstance(finding.what, Read) else finding.what.kind] += finding.count
        return {finding.recipe for finding in found}, counts

    def to_dict(self, kinds: Sequence[str] = (GAP, LEAKED)) -> dict[str, Any]:
        """JSON-ready, with the format's name and version."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "records": self.records,
            "recipes": len(self.recipes),
            "exposed": self.exposed,
            "findings": [finding.to_dict() for finding in self.of(kinds, arguments=True)],
            "folded": {kind: self._folded(kind) for kind in (OWN, LIBC) if kind not in kinds},
            "notes": self.notes,
        }

    def _folded(self, kind: str) -> dict[str, Any]:
        recipes, counts = self.summed_up(kind)
        return {"recipes": sorted(recipes), "reads": dict(sorted(counts.items()))}


def _shortened(finding: Finding) -> Finding:
    """Without arguments, and each program in the chain once: make starts make, and the task's script starts all."""
    what = finding.what
    if isinstance(what, Gap):
        return finding
    own = what.chain.partition(" <- ")[0]
    parents = [name for name in dict.fromkeys(what.parents) if name not in (own, f"run.{finding.task}")]
    return replace(finding, what=what._replace(arguments="", parents=tuple(parents)))


def _added_up(findings: Iterable[Finding]) -> list[Finding]:
    counts: Counter[Finding] = Counter()
    for finding in findings:
        counts[replace(finding, count=0)] += finding.count
    return [replace(one, count=count) for one, count in counts.items()]


def _gap_remedy(gap: Gap) -> str:
    if gap.kind == "outer session":
        return "open one session only"
    return "see `detbuild doctor`, and run it again"


def kind(read: Read) -> str:
    """Of a read on record: one of fixed, passed, leaked, own and libc."""
    if read.outcome != LEAKED:
        return read.outcome
    if read.source == HEAP_KEY:
        return LIBC
    return OWN if read.name == TASK else LEAKED


def kinds(audit: Audit) -> Counter[str]:
    """How many reads of each kind a record holds."""
    counts: Counter[str] = Counter()
    for read, count in audit.reads.items():
        counts[kind(read)] += count
    return counts


def _observing(audit: Audit) -> bool:
    return audit.policy.partition(" ")[0] == "observe"


def remedy(audit: Audit, read: Read, task: str) -> str:
    """What to do about a leaked read of a session's record; "" for any other read."""
    found = kind(read)
    if found == OWN:
        return "the task's own Python sees the real world, have a program do it"
    return _leak_remedy(audit, read, task) if found == LEAKED else ""


def _leak_remedy(audit: Audit, read: Read, task: str) -> str:
    if never := _UNFIXABLE.get(read.source) or _for_keys(read):
        return never
    fixing = _fixing(read.source)
    if _observing(audit) and not fixing:
        return "no policy fixes it"
    if audit.observed and task:
        add = f"add {task} to DETBUILD_TASKS" + (", with policy strict" if fixing == "strict" else "")
        return "no session holds such a task, have another one make it" if task in _SHARED else add
    if _observing(audit):
        return f"policy {fixing} fixes it"
    if fixing == "time" and audit.engine == "tracer" and not read.name:
        return "a debugger ran it, make it outside one"
    return f"policy {audit.policy} leaves it"


@functools.cache
def _fixing(source: str) -> str:
    """The least policy that fixes a source, "" for none."""
    for name in ("time", "strict"):
        rows = [(rule.call, rule.treatment) for rule in policy.rules(name)]
        rows += [(rule.path, rule.treatment) for rule in policy.files(name)]
        if (source, Treatment.FIXED) in rows:
            return name
    return ""


@functools.cache
def _random() -> frozenset[str]:
    """The sources that the rule random fixes."""
    calls = {rule.call for rule in policy.added("random") if rule.kind == "random"}
    return frozenset(calls | {file.path for file in policy.files("time +random")})


def _for_keys(read: Read) -> str:
    """What to say of random numbers that the built-in rule of the program keeps real; "" of any other read."""
    if read.source not in _random():
        return ""
    try:
        arguments = shlex.split(read.arguments)
    except ValueError:  # they are cut short within quotes
        arguments = read.arguments.split()
    rule = programs.table().decide(read.program, lambda: (read.program, *arguments))
    return "no policy fixes it, its random numbers are for keys" if rule.random == "real" else ""
