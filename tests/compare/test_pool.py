from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from making import control

from detbuild.compare import worker as worker_process
from detbuild.compare.change import Facts
from detbuild.compare.limits import Limits
from detbuild.compare.model import Ending
from detbuild.compare.pool import LocalPool, Outcome, Task, Worker

FACTS = Facts(now=time.time())


def task(tmp_path: Path, a: bytes, b: bytes, limits: Limits = Limits(60)) -> Task:  # noqa: B008 (it is frozen)
    (tmp_path / "a").write_bytes(a)
    (tmp_path / "b").write_bytes(b)
    return Task(str(tmp_path / "a"), str(tmp_path / "b"), FACTS, limits)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    (tmp_path / "scratch").mkdir()
    return Worker(tmp_path / "scratch")


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """5 GiB of zeroes, compressed by zstd some ten thousand times."""
    if not shutil.which("zstd"):
        pytest.skip("needs zstd")
    with subprocess.Popen(["head", "-c", str(5 << 30), "/dev/zero"], stdout=subprocess.PIPE) as zeroes:
        return subprocess.run(["zstd", "-q", "-1"], stdin=zeroes.stdout, stdout=subprocess.PIPE, check=True).stdout


def test_one_worker_serves_many_pairs(tmp_path: Path, worker: Worker) -> None:
    for text in (b"at 2026-11-20\n", b"at 2026-11-21\n"):
        outcome = worker.run(task(tmp_path, b"at 2025-01-01\n", text))
        assert (outcome.ending, outcome.changes[0].b) == (Ending.COMPLETE, text[3:-1].decode())
    worker.end()


def test_a_pair_over_its_time_is_stopped_and_the_next_one_works(tmp_path: Path, worker: Worker, bomb: bytes) -> None:
    started = time.monotonic()
    outcome = worker.run(task(tmp_path, bomb, bomb + b"x", Limits(1)))
    assert (outcome.ending, outcome.detail) == (Ending.OVER_TIME, "stopped after 1 s")
    assert time.monotonic() - started < 5
    assert worker.run(task(tmp_path, b"1", b"2")).ending is Ending.COMPLETE
    worker.end()
    assert not list((tmp_path / "scratch").iterdir())


def test_a_pair_over_its_memory_says_so(tmp_path: Path, worker: Worker) -> None:
    lines = b"".join(b"line %d with words\n" % number for number in range(600_000))
    outcome = worker.run(task(tmp_path, lines, lines.replace(b"7", b"8"), Limits(60, 120 << 20)))
    assert (outcome.ending, outcome.detail) == (Ending.OVER_MEMORY, "more than 120 MiB wanted")
    assert worker.run(task(tmp_path, b"1", b"2")).ending is Ending.COMPLETE
    worker.end()


def test_a_pair_without_room_to_be_unpacked_in_fails_alone(tmp_path: Path, worker: Worker) -> None:
    """As where something cleaned /tmp meanwhile."""
    (tmp_path / "scratch").rmdir()
    outcome = worker.run(task(tmp_path, b"1", b"2"))
    assert outcome.ending is Ending.FAILED
    assert outcome.detail.startswith("there is no room to unpack it in: [Errno 2] No such file or directory")
    (tmp_path / "scratch").mkdir()
    assert worker.run(task(tmp_path, b"1", b"2")).ending is Ending.COMPLETE
    worker.end()


def test_a_worker_that_is_killed_is_told_and_started_again(tmp_path: Path, worker: Worker, bomb: bytes) -> None:
    killer = threading.Timer(0.7, lambda: os.killpg(worker.pid or 0, signal.SIGKILL))
    killer.start()
    outcome = worker.run(task(tmp_path, bomb, bomb + b"x"))
    assert outcome.ending is Ending.FAILED
    assert "signal 9" in outcome.detail
    assert worker.run(task(tmp_path, b"1", b"2")).ending is Ending.COMPLETE
    worker.end()


def test_a_worker_dies_with_the_process_that_started_it(tmp_path: Path, bomb: bytes) -> None:
    """As on a cluster, where a worker of Dask is killed in the middle of a pair and nobody is left to watch."""
    one = task(tmp_path, bomb, bomb + b"x", Limits(300))
    code = (
        "import sys, threading, time; from pathlib import Path; from detbuild.compare.change import Facts\n"
        "from detbuild.compare.limits import Limits; from detbuild.compare.pool import Task, Worker\n"
        "worker = Worker(Path(sys.argv[1]))\n"
        "work = lambda: worker.run(Task(sys.argv[2], sys.argv[3], Facts(), Limits(300)))\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "while not worker.pid: time.sleep(0.01)\n"
        "time.sleep(1); print(worker.pid, flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), one.a, one.b]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_at_work(pid), "the pair takes longer than the parent lives"
        parent.kill()
    deadline = time.monotonic() + 60
    while is_at_work(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_at_work(pid)


def is_at_work(pid: int) -> bool:
    """Whether a process lives: one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_nobody_watches_ends_by_its_own_clock(
    tmp_path: Path, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(tmp_path, bomb, bomb + b"x")
    monkeypatch.setattr("detbuild.compare.worker._worked", lambda task: time.sleep(300))
    monkeypatch.setattr("detbuild.compare.worker.GRACE", 0)
    fields = {"a": one.a, "b": one.b, "facts": {}, "scratch": str(tmp_path), "seconds": 1, "memory": 4 << 30}
    pid = os.fork()
    if not pid:
        sys.stdin = io.StringIO(json.dumps(fields) + "\n")
        worker_process.main(os.getppid())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGALRM


def test_what_was_found_before_the_end_is_kept(tmp_path: Path, worker: Worker, bomb: bytes) -> None:
    """A tar whose first file differs, and whose second is a bomb."""
    for side, day in (("a", "20"), ("b", "21")):
        home = tmp_path / f"tree-{side}"
        home.mkdir()
        (home / "1").write_text(f"at 2026-11-{day}\n")
        (home / "2.zst").write_bytes(bomb + (b"" if side == "a" else b"x"))
        subprocess.run(["tar", "--mtime=@1", "--sort=name", "-cf", tmp_path / side, "1", "2.zst"], cwd=home, check=True)
    outcome = worker.run(Task(str(tmp_path / "a"), str(tmp_path / "b"), FACTS, Limits(3)))
    assert outcome.ending is Ending.OVER_TIME
    assert [change.a for change in outcome.changes if change.where == ("1",)] == ["2026-11-20"]
    worker.end()


def test_a_pool_works_side_by_side_and_ends_with_all_its_processes(tmp_path: Path, bomb: bytes) -> None:
    pool = LocalPool(2, tmp_path)
    (tmp_path / "slow").mkdir()
    slow = pool.submit(task(tmp_path / "slow", bomb, bomb + b"x"))
    assert pool.submit(task(tmp_path, b"1", b"2")).result(60).ending is Ending.COMPLETE
    assert not slow.done()
    pids = [worker.pid for worker in pool.workers if worker.pid]
    pool.close()
    assert isinstance(slow.result(60), Outcome)
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_pool_is_closed_while_a_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that came just then found no process to end, and waited for the pair's whole time."""
    starting, pids, real = threading.Event(), [], subprocess.Popen

    def slow(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = real(["sleep", "100"], **options)
        pids.append(process.pid)
        starting.set()
        time.sleep(0.5)
        return process

    monkeypatch.setattr("detbuild.compare.pool.subprocess.Popen", slow)
    pool = LocalPool(1, tmp_path)
    left = [pool.submit(task(tmp_path, b"1", b"2", Limits(90))) for _ in range(2)]
    assert starting.wait(60)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 60
    assert left[0].result(0).ending is Ending.FAILED
    assert left[1].cancelled()
    assert [is_at_work(pid) for pid in pids] == [False]


def test_ten_mebibytes_of_noise_in_a_package_take_little_memory_and_little_output(tmp_path: Path) -> None:
    """Memory as the kernel counts it for each process at its peak; `scripts/bench compare` measures the time."""
    for side in ("a", "b"):
        root = tmp_path / f"root-{side}"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(control("noise", "noise"))
        (root / "noise").write_bytes(os.urandom(10 << 20))
        (tmp_path / side).mkdir()
        command = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zgzip",
            "-z1",
            "-b",
            str(root),
            str(tmp_path / side / "noise.deb"),
        ]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"})
    code = (
        "import resource, sys; from detbuild.cli.main import compare_main; status = compare_main();"
        "both = resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF;"
        "print(max(resource.getrusage(who).ru_maxrss for who in both), file=sys.stderr)"
    )
    report = tmp_path / "out.json"
    paths = [str(tmp_path / "a"), str(tmp_path / "b"), "--text", "--json", str(report)]
    done = subprocess.run(
        # Through a small shell: the kernel counts what a process was forked from as its own peak.
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", code, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "random or UUID" in done.stdout
    assert int(done.stderr) < 150 << 10, "KiB"
    assert len(done.stdout) < 2 << 10
    assert report.stat().st_size < 8 << 10
    (finding,) = json.loads(report.read_text())["findings"]
    (evidence,) = finding["causes"][0]["evidence"]
    assert re.search(
        r"10485760 and 10485760 bytes, offsets 0 to \d+, 99.6% of bytes differ, entropy", evidence["line_a"]
    )
    assert finding["diffoscope"]["ending"] == "bounded"
