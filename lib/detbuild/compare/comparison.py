# SPDX-License-Identifier: MIT
"""The flow of one comparison: collect, match, digest, name, take apart. Findings come as they are done, the result has
them in the order of their paths."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from detbuild.compare import cause, differ, roots
from detbuild.compare.change import Change, Facts
from detbuild.compare.collect import collect
from detbuild.compare.culprit import Audits
from detbuild.compare.digest import Unreadable, check, digest
from detbuild.compare.expect import Expectations
from detbuild.compare.limits import Limits
from detbuild.compare.manifest import Manifests
from detbuild.compare.match import Pair, glance, match
from detbuild.compare.model import Comparison, Finding, Kind, Trouble
from detbuild.compare.origin import shared_inodes, shared_sstate
from detbuild.compare.pool import LocalPool, Pool
from detbuild.compare.recipe import Recipes, pkgdata_of
from detbuild.compare.resume import Journal
from detbuild.compare.why import Why

Progress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is done, how much there is, and what it was done to last."""

Verdict = Finding | Trouble | bool


@dataclass
class Options:
    """``formats``: which of ``differ.FORMATS`` to have diffoscope write. ``jobs``: how many at once.

    ``causes``: whether to take differing pairs apart; ``deep``: whether to ask diffoscope about what that leaves
    unknown. ``asked_about`` says which findings diffoscope may look at, for either reason. ``expect`` are files of
    expectations, ``journal`` the file that an interrupted run goes on from, ``audits`` directories with audit records,
    ``cluster`` the address of a Dask scheduler.
    """

    formats: tuple[str, ...] = ()
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    exclude: tuple[str, ...] = ()
    pkgdata: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    causes: bool = True
    deep: bool = True
    asked_about: Callable[[Finding], bool] = lambda finding: True
    expect: tuple[Path, ...] = ()
    journal: Path | None = None
    audits: tuple[Path, ...] = ()
    cluster: str = ""


class Comparing:
    """A comparison at work. The files that its findings point to live until it is left.

    ::

        with Comparing(a, b, options) as comparing:
            for finding in comparing.run():
                ...
        comparing.result.status
    """

    def __init__(self, a: Path, b: Path, options: Options, progress: Progress | None = None) -> None:
        """Walks both trees. Raises CompareError where there is nothing that can be compared."""
        self._options = options
        self._progress = progress or (lambda what, done, of, name: None)
        self._recipes = Recipes((*options.pkgdata, *pkgdata_of((a, b))))
        self._manifests = {tree: Manifests(tree) for tree in (a, b)}
        self._expectations = Expectations.read(options.expect)
        self._a, self._b = (collect(root, options.exclude) for root in (a, b))
        self.result = Comparison(a, b)
        self.result.troubles += self._a.troubles + self._b.troubles
        self.result.warnings += shared_inodes(self._a, self._b) + shared_sstate(a, b)
        self.facts = Facts.of(str(a.absolute()), str(b.absolute()), time.time())
        self._audits = Audits(options.audits, (a, b))
        self._program = differ.find_diffoscope()
        self._journal = Journal(options.journal, a, b, options.deep and bool(self._program))
        self._stack = ExitStack()
        self._ended: SimpleQueue[tuple[Pair | Finding, Future[Verdict] | Future[None]]] = SimpleQueue()
        self._open = self._read_pairs = self._started = self._worked = 0

    def __enter__(self) -> Comparing:
        scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="detbuild-compare-")))
        # Pools of their own: work starts on what is known to differ while the rest is still being read.
        self._reading = ThreadPoolExecutor(self._options.jobs, "digest")
        self._working = ThreadPoolExecutor(max(self._options.jobs, self._pool_size()), "diffoscope")
        self._pool = self._made_pool(scratch)
        for pool in (self._reading, self._working):
            self._stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        self._stack.callback(self._pool.close)
        self._stack.callback(self._journal.close)
        self._why = Why(self._pool, self._program, self._options, scratch, (self._a.root, self._b.root), self.facts)
        self._stack.callback(self._why.close)
        return self

    def _pool_size(self) -> int:
        return 32 if self._options.cluster else self._options.jobs

    def _made_pool(self, scratch: Path) -> Pool:
        if self._options.cluster:
            from detbuild.compare.cluster import ClusterPool

            return ClusterPool(self._options.cluster)
        return LocalPool(self._options.jobs, scratch)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()

    def run(self) -> Iterator[Finding]:
        """Yield each finding as soon as it is complete; ``result`` is complete, and in order, when this ends."""
        pairs = list(match(self._a, self._b))
        self.result.total = len(pairs)
        self._tell_renamed(pairs)
        for pair in pairs:
            self._watch(pair, self._reading.submit(self._judge, pair))
        while self._open:
            # Whatever ends next: a slow pair must not keep back what others found.
            about, future = self._ended.get()
            self._open -= 1
            done = self._take(about, future.result()) if isinstance(about, Pair) else self._taken_apart(about, future)
            if done:
                self._explain(done)
                self.result.findings.append(done)
                yield done
        self._finish()

    def artefacts(self) -> Iterator[Finding]:
        """Every artefact of either tree, also those that are the same, with package and recipe and nothing else."""
        for pair in match(self._a, self._b):
            about = Finding(pair.path, Kind.DIFFERENT, pair.a, pair.b, other=pair.other)
            self._name(about)
            yield about

    def _watch(self, about: Pair | Finding, future: Future[Verdict] | Future[None]) -> None:
        self._open += 1
        future.add_done_callback(lambda ended: self._ended.put((about, ended)))

    def _finish(self) -> None:
        self.result.findings.sort(key=lambda finding: finding.artefact)
        roots.resolve(self.result, self._recipes)
        self.result.stale += self._expectations.stale()
        self.result.warnings += self._recipes.warnings + self._audits.warnings + self._journal.warnings
        self.result.warnings += [warning for one in self._manifests.values() for warning in one.warnings]
        self._tell_missing_diffoscope()

    def _tell_renamed(self, pairs: list[Pair]) -> None:
        renamed = [pair for pair in pairs if pair.other]
        if renamed:
            first = f"{renamed[0].path} in A, {renamed[0].other} in B"
            were = "artefact was" if len(renamed) == 1 else "artefacts were"
            self.result.notes.append(f"{len(renamed)} {were} matched by names without date or hash ({first})")

    def _judge(self, pair: Pair) -> Verdict:
        """In a reader's thread: what becomes of one pair. True and False say that it is the same, or not known."""
        if pair.hidden:
            return False
        verdict = glance(pair)
        if verdict is None:
            return self._read(pair)
        if isinstance(verdict, Finding) and verdict.has_two_files:
            # Sizes have decided, but what takes them apart must be able to read them.
            return self._trouble(pair, check) or verdict
        return verdict

    def _read(self, pair: Pair) -> Verdict:
        digests: list[str] = []
        if trouble := self._trouble(pair, lambda path: digests.append(digest(path))):
            return trouble
        if digests[0] == digests[1]:
            return True
        return Finding(pair.path, Kind.DIFFERENT, pair.a, pair.b, digests=(digests[0], digests[1]), other=pair.other)

    def _trouble(self, pair: Pair, read: Callable[[str], None]) -> Trouble | None:
        """Apply `read` to both files of a pair; returns what was wrong, if anything."""
        for root, name in ((self._a.root, pair.path), (self._b.root, pair.path_b)):
            path = os.path.join(root, name)
            try:
                read(path)
            except Unreadable as error:
                return Trouble(path, str(error))
        return None

    def _take(self, pair: Pair, verdict: Verdict | None) -> Finding | None:
        """What a reader said of a pair; returns the finding where there is nothing more to be done for it."""
        done = None
        if isinstance(verdict, Trouble):
            self.result.troubles.append(verdict)
        elif isinstance(verdict, Finding):
            self._name(verdict)
            done = None if self._start(verdict) else verdict
        else:
            self.result.same += bool(verdict)
        self._read_pairs += 1
        self._progress("reading", self._read_pairs, self.result.total, pair.path)
        return done

    def _name(self, finding: Finding) -> None:
        if finding.present.is_file:
            root = self._a.root if finding.a else self._b.root
            finding.package, finding.recipe = self._recipes.name(root / finding.artefact)
            if not finding.recipe:
                finding.recipe = self._manifests[root].recipe(finding.artefact)

    def _start(self, finding: Finding) -> bool:
        """Have a pair taken apart, if it is one of files; whether that was started."""
        if not finding.has_two_files:
            finding.causes = cause.gather(_alone(finding), self.facts) if self._options.causes else []
            return False
        # The journal holds causes, and nothing of what diffoscope printed.
        if (not self._options.formats and self._journal.recall(finding)) or not self._why.is_asked(finding):
            return False
        self._started += 1
        self._watch(finding, self._working.submit(self._why.answer, self._started, finding))
        return True

    def _taken_apart(self, finding: Finding, future: Future[Verdict] | Future[None]) -> Finding:
        future.result()
        self._worked += 1
        self._progress("taking apart", self._worked, self._started, finding.artefact)
        self._journal.keep(finding)
        return finding

    def _explain(self, finding: Finding) -> None:
        """What needs no process: who put a file into an image, who leaked, and whether it was expected."""
        if not finding.package:
            finding.owners = self._recipes.owners(inner.where for inner in finding.inner)
        finding.culprits = self._audits.culprits(finding)
        finding.expected = self._expectations.reason(finding)

    def _tell_missing_diffoscope(self) -> None:
        undiffed = sum(finding.has_two_files and self._options.asked_about(finding) for finding in self.result.findings)
        if undiffed and self._options.formats and not self._program:
            message = f"not found beside {sys.executable} nor on PATH, so {undiffed} pairs are not shown. "
            self.result.troubles.append(Trouble("diffoscope", message + differ.INSTALL.capitalize()))


def _alone(finding: Finding) -> list[Change]:
    if finding.kind is Kind.ONLY_IN_A:
        return [Change((), "member", a=finding.artefact)]
    if finding.kind is Kind.ONLY_IN_B:
        return [Change((), "member", b=finding.artefact)]
    assert finding.a
    assert finding.b
    if finding.a.target and finding.b.target:
        return [Change(("target",), "text", finding.a.target, finding.b.target)]
    return [Change((), "limit", line_a=finding.note)]
