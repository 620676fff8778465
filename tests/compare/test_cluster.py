"""Pairs of files on a real Dask cluster: a scheduler and two workers as processes on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import make_deb

from detbuild.compare import Comparing, Options
from detbuild.compare.pool import LIBRARY
from detbuild.errors import CompareError

pytest.importorskip("distributed", reason="needs the package distributed")
PAIRS = 24


class Cluster:
    """``address`` of the scheduler; ``workers`` are processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join([LIBRARY, os.environ.get("PYTHONPATH", "")])}
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._await("scheduler", r"Scheduler at:\s+(tcp://[\d.:]+)")
        self.workers = []
        for number in range(2):
            name = f"worker{number}"
            options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(directory))
            self.workers.append(self._start(name, self.address, *options))
            self._await(name, r"(Registered to)")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        module = f"distributed.cli.dask_{name.rstrip('01')}"
        command = [sys.executable, "-m", module, *arguments]
        with (self._directory / name).open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment, start_new_session=True)

    def _await(self, name: str, pattern: str) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := re.search(pattern, (self._directory / name).read_text()):
                return found[1]
            time.sleep(0.1)
        raise AssertionError((self._directory / name).read_text())

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster")
    yield made
    made.close()


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for number in range(PAIRS):
        for side, day in (("a", 11), ("b", 12)):
            make_deb(tmp_path / side, f"p{number:02d}", "p", f"built 2026-11-{day} 10:{number:02d}:00\n")
    return tmp_path / "a", tmp_path / "b"


def test_nothing_is_lost_or_counted_twice_when_a_worker_is_killed(cluster: Cluster, trees: tuple[Path, Path]) -> None:
    with Comparing(*trees, Options(cluster=cluster.address, deep=False)) as comparing:
        found = []
        for finding in comparing.run():
            found.append(finding)
            if len(found) == 3:
                os.killpg(cluster.workers[0].pid, signal.SIGKILL)
    assert Counter(finding.artefact for finding in found) == Counter(f"p{n:02d}_1.0-r0_all.deb" for n in range(PAIRS))
    assert {finding.cause for finding in found} == {"timestamp"}
    assert {sum(cause.count for cause in finding.causes) for finding in found} == {1}
    assert dict(comparing.result.counts())["Different"] == PAIRS


def test_a_cluster_says_what_one_machine_says(cluster: Cluster, trees: tuple[Path, Path]) -> None:
    said = []
    for options in (Options(cluster=cluster.address, deep=False), Options(deep=False)):
        with Comparing(*trees, options) as comparing:
            list(comparing.run())
        said.append([(finding.artefact, finding.causes, finding.inner) for finding in comparing.result.findings])
    assert said[0] == said[1]


def test_a_scheduler_that_is_not_there_is_refused(trees: tuple[Path, Path]) -> None:
    with (
        pytest.raises(CompareError, match="no scheduler answers"),
        Comparing(*trees, Options(cluster="tcp://127.0.0.1:9")),
    ):
        pass
