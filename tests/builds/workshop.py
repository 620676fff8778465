"""Builds a real program from upstream's sources, in a session or without one, and says what that gave."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import sources
from detbuild.audit import Audit
from detbuild.engine import select
from detbuild.errors import EngineUnavailable

SECONDS = 900  # for one step of one build


@dataclass(frozen=True)
class Program:
    """How upstream builds it. ``proof`` matches the one path below DESTDIR that only a build puts there.

    ``result`` finds the test suite's results in the output of ``check``; suites of automake leave them in files.
    ``idle`` is what ``build`` says when there is nothing to do, where it says anything. ``needs`` are programs that
    not every machine has.
    """

    package: str
    proof: str
    configure: str = "./configure --prefix=/usr"
    build: str = "make -j2"
    check: str = "make -j2 check"
    install: str = "make install DESTDIR={}"
    result: str = ""
    passed: int = 1
    idle: str = ""
    needs: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        return f"{self.package} {self.note}".strip()


@dataclass
class Again:
    """What a second run of the same build said, line by line, and which files of the tree it wrote."""

    said: list[str]
    wrote: set[str]


@dataclass
class Build:
    """What one build gave: the digests by path of what was installed in ``target``, each test's result by its name.

    ``again`` is a second build where the first was made; ``again_outside`` one more, without a session.
    """

    installed: dict[str, str]
    target: Path
    log: str = ""
    results: Counter[str] = field(default_factory=Counter)
    again: Again | None = None
    again_outside: Again | None = None
    audits: list[Audit] = field(default_factory=list)


class Workshop:
    """Builds one program below ``top``; ``session`` is the command line that starts one, empty for none."""

    def __init__(self, program: Program, top: Path, session: list[str]) -> None:
        self._program, self._top, self._session = program, top, session
        self._tree = top / "tree"
        self._audits: list[Audit] = []
        self._log: list[str] = []

    def build(self, check: bool) -> Build:
        """As ``make``; with ``check`` also what a second build does, and the test suite."""
        build = self.make()
        if check:
            build.again = self._again(self._session)
            build.again_outside = self._again([])
            build.results = self.check()
        build.log = "".join(self._log)
        return build

    def make(self) -> Build:
        """From a fresh tree, always in the same directory; earlier trees are moved away."""
        program, tree = self._program, self._tree
        if tree.exists():
            tree.rename(self._top / f"tree-{time.monotonic_ns()}")
        sources.unpack(program.package, tree)
        target = self._top / f"installed-{time.monotonic_ns()}"
        for command in (program.configure, program.build, program.install.format(shlex.quote(str(target)))):
            self._step(command)
        [proof] = target.glob(program.proof)
        assert proof.stat().st_size > 0
        return Build(digests(target), target, "".join(self._log), audits=self._audits)

    def check(self, session: list[str] | None = None) -> Counter[str]:
        """The test suite's results in the tree that was made; ``session`` is another command line than the workshop's.

        Where a test fails without a session too, make fails, and the results are compared all the same.
        """
        return self._results(self._step(self._program.check, may_fail=True, session=session))

    def _again(self, session: list[str]) -> Again:
        before = written(self._tree)
        said = self._step(self._program.build, session=session)
        after = written(self._tree)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        said = re.sub(r"[\d.]+s$", "SECONDS", said.replace(str(self._top), "TOP"), flags=re.MULTILINE)
        return Again(sorted(said.splitlines()), changed)

    def _step(self, command: str, may_fail: bool = False, session: list[str] | None = None) -> str:
        tree, audit = self._tree, self._top / "audit.json"
        prefix = list(self._session if session is None else session)
        if prefix:
            prefix[prefix.index("--") : prefix.index("--")] = ["--audit", str(audit)]
        result = subprocess.run(
            [*prefix, "sh", "-c", command],
            cwd=tree,
            env=environment(tree),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
        if prefix:
            self._audits.append(Audit.from_json(audit.read_text()))
        self._log.append(result.stdout)
        assert result.returncode == 0 or may_fail, f"{command} in {tree}:\n{result.stdout[-3000:]}"
        return result.stdout

    def _results(self, output: str) -> Counter[str]:
        tree = self._tree
        if self._program.result:
            return Counter(re.findall(self._program.result, output, re.MULTILINE))
        logs = [(path, path.read_text(errors="replace")) for path in tree.rglob("*.trs")]
        return Counter(
            f"{path.relative_to(tree)}: {result}"
            for path, text in logs
            for result in re.findall(r"^:test-result: *(\S+)", text, re.MULTILINE)
        )


def environment(tree: Path) -> dict[str, str]:
    """Ours, without what steers a build from outside; every tree has caches of its own and no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "SOURCE_DATE"))}
    rust = {"CARGO_HOME": str(tree / ".cargo-home"), "CARGO_NET_OFFLINE": "true"}
    go = {"GOCACHE": str(tree / ".go-cache"), "GOPATH": str(tree / ".go"), "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    return {**kept, "LC_ALL": "C", "TZ": "UTC0", "GOFLAGS": "-mod=mod", **rust, **go}


def digests(top: Path) -> dict[str, str]:
    """SHA-256 of every file below ``top``, and the target of every symbolic link, by path."""
    return {
        str(path.relative_to(top)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def written(top: Path) -> dict[str, int]:
    """When every file below ``top`` was written, in nanoseconds, by path; tools' caches left out."""
    found = {}
    for directory, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for path in (Path(directory, name) for name in files):
            found[str(path.relative_to(top))] = path.lstat().st_mtime_ns
    return found


def good(results: Counter[str]) -> int:
    """How many tests neither failed nor were skipped."""
    return sum(count for name, count in results.items() if not re.search(r"\b(SKIP\w*|FAIL\w*|ERROR|Failed)\b", name))


@dataclass
class Built:
    """One program without a session, and twice in one."""

    program: Program
    without: Build
    first: Build
    second: Build


def build_beside(program: Program, top: Path, in_session: Callable[[], tuple[Build, Build]]) -> Built:
    """Build a program without a session, and beside that as ``in_session`` does. Skips where this machine cannot."""
    if missing := [name for name in program.needs if not shutil.which(name)]:
        pytest.skip(f"{' and '.join(missing)} not installed")
    try:
        sources.archive(program.package)
    except sources.Unavailable as reason:
        pytest.skip(str(reason))
    with ThreadPoolExecutor() as pool:
        pair = pool.submit(in_session)
        without = pool.submit(Workshop(program, top / "without", []).build, check=True)
        return Built(program, without.result(), *pair.result())


def need_engine(policy: str = "time") -> None:
    """Skip where no engine holds a policy."""
    try:
        select.choose(policy=policy)
    except EngineUnavailable as error:
        pytest.skip(f"no engine works here: {error}")
