"""What the tracer costs: builds and a saturated clock, each in a session beside the same without, in one run.

Pairs run in alternating order, each build on a fresh copy of its tree, after one pair that does not count: its session
counts the tracer's stops. Ratios are medians over the pairs. A busy machine spoils less: "of the best", the best run
over the best run, and "CPU", the ratio of processor time, the tracer's own included. "us a stop" is wall time without
the session's start, which is the first row's. With --without-audit both sides
are sessions, and one keeps no record: the ratio is the audit's cost. Sessions start without Python's site, to which
machines add what is not ours. Exit 2 where upstream's sources or an engine are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from detbuild.audit import Audit
from detbuild.errors import DetbuildError

TESTS = Path(__file__).resolve().parent.parent
LIBRARY = TESTS.parent / "lib"
sys.path.insert(0, str(TESTS))

import sources  # noqa: E402  # beside this directory, which is on no path

FORMAT, VERSION = "detbuild-bench-tracer", 2
EPOCH = 1_300_000_000

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# time(2) itself, which the vDSO would answer; the monotonic clock stays real in a session.
LOOP = """\
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    long calls = atol(argv[argc - 1]);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (long i = 0; i < calls; i++) syscall(SYS_time, NULL);
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%.9f\\n", (after.tv_sec - before.tv_sec) + (after.tv_nsec - before.tv_nsec) / 1e9);
    return 0;
}
"""


@dataclass
class Pairs:
    """Wall seconds of the same thing ``without`` and ``within`` a session, pair by pair; and CPU seconds of all
    processes, the tracer with them.

    ``stops`` counts what the tracer waited for in one run, by kind. The end of a process is one of them.
    """

    name: str
    stops: dict[str, int] = field(default_factory=dict)
    without: list[float] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    cpu_without: list[float] = field(default_factory=list)
    cpu_within: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [within / without for without, within in zip(self.without, self.within, strict=True)]

    @property
    def cost(self) -> float:
        """Seconds: the median difference."""
        return statistics.median(b - a for a, b in zip(self.without, self.within, strict=True))


class Bench:
    """Sessions of one policy, measured. ``without_audit``: beside sessions that keep no record, not beside none."""

    def __init__(self, top: Path, policy: str, without_audit: bool) -> None:
        self._audit, self._watched = top / "audit.json", top / "watched"
        self._policy, self._without_audit = policy, without_audit

    def session(self, mode: str) -> list[str]:
        """The command line before a command that runs in a session, which watched_tracer.py watches."""
        entrance = f"import sys; sys.path[:0] = {[str(LIBRARY), str(TESTS)]!r}; from watched_tracer import run"
        python = [sys.executable, "-I", "-S", "-c", entrance + "; sys.exit(run(*sys.argv[1:]))"]
        terms = ["--engine", "tracer", "--epoch", str(EPOCH), "--policy", self._policy]
        return [*python, mode, str(self._watched), "run", *terms, "--audit", str(self._audit), "--"]

    def paired(self, name: str, measure: Callable[[list[str]], float], runs: int) -> Pairs:
        """``measure`` gets the command line before the command, and returns seconds."""
        pairs = Pairs(name)
        measure(self.session("stops"))
        record = Audit.from_json(self._audit.read_text())
        if record.degraded:
            gaps = ", ".join(gap.detail for gap in record.gaps)
            raise DetbuildError(f"the session of {name} was degraded", cause=gaps)
        ended = time.monotonic() + 5
        while not self._watched.exists() and time.monotonic() < ended:
            time.sleep(0.01)  # the tracer outlives its session by a moment
        pairs.stops = json.loads(self._watched.read_text())
        self._watched.unlink()
        other = self.session("unrecorded") if self._without_audit else []
        measure(other)
        for number in range(runs):
            for within in (False, True) if number % 2 else (True, False):
                before = cpu_seconds()
                seconds = measure(self.session("plain") if within else other)
                used = cpu_seconds() - before
                (pairs.within if within else pairs.without).append(seconds)
                (pairs.cpu_within if within else pairs.cpu_without).append(used)
        return pairs

    def profile(self, measure: Callable[[list[str]], float]) -> str:
        """Where the tracer spends its time, in one more run."""
        measure(self.session("profile"))
        cpu_seconds()  # it has ended, and so written its profile
        return self._watched.read_text()


def adopt_orphans() -> None:
    """Become the parent of every tracer: it is nobody's child, and only a parent is told what a process used."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def cpu_seconds() -> float:
    """User and system seconds of everything that was started so far, after it has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def copied(tree: Path) -> Iterator[Path]:
    """A copy on the same file system with its times, written back before anything is measured."""
    copy = tree.with_name(tree.name + "-run")
    subprocess.run(["cp", "-a", tree, copy], check=True)
    os.sync()
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def build_seconds(tree: Path, command: str) -> Callable[[list[str]], float]:
    def measure(prefix: list[str]) -> float:
        with copied(tree) as copy:
            start = time.perf_counter()
            run([*prefix, "sh", "-c", command], cwd=copy)
            return time.perf_counter() - start

    return measure


def start_seconds(prefix: list[str]) -> float:
    start = time.perf_counter()
    run([*prefix, "true"])
    return time.perf_counter() - start


def loop_seconds(program: Path, calls: int) -> Callable[[list[str]], float]:
    """Seconds a call, measured inside the program: starting it does not count."""
    return lambda prefix: float(run([*prefix, str(program), str(calls)])) / calls


def run(command: list[str], cwd: Path | None = None) -> str:
    """The command's output. Raises DetbuildError with its last lines where it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "SOURCE_DATE_EPOCH")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False, cwd=cwd
    )
    if result.returncode:
        raise DetbuildError(f"{command} failed with {result.returncode}", cause=(result.stdout + result.stderr)[-500:])
    return result.stdout


def load() -> float:
    return round(os.getloadavg()[0], 2)


def show(pairs: list[Pairs], loop: Pairs) -> None:
    table = Table("", "without", "in a session", "ratio", "from", "to", "of the best", "CPU", "stops", "us a stop")
    start = pairs[0].cost
    for entry in pairs:
        stops = sum(entry.stops.values())
        stop = f"{(entry.cost - start) / stops * 1e6:.0f}" if entry is not pairs[0] else ""
        seconds = [f"{statistics.median(values):.3f} s" for values in (entry.without, entry.within)]
        best = min(entry.within) / min(entry.without)
        cpu = statistics.median(entry.cpu_within) / statistics.median(entry.cpu_without)
        middle = statistics.median(entry.ratios)
        ratios = [f"{value:.3f}" for value in (middle, min(entry.ratios), max(entry.ratios), best, cpu)]
        table.add_row(entry.name, *seconds, *ratios, str(stops), stop)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for entry in pairs:
        kinds = sorted(entry.stops.items(), key=lambda item: -item[1])
        console.print(f"{entry.name}: {', '.join(f'{count} {kind}' for kind, count in kinds)}", highlight=False)
    cost = statistics.median(loop.within) - statistics.median(loop.without)
    console.print(f"saturated: {cost * 1e6:.1f} microseconds a stop, {1 / cost:,.0f} stops per second", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs of each; default: %(default)s")
    parser.add_argument(
        "--calls", type=int, default=100_000, metavar="N", help="time(2) in a loop; default: %(default)s"
    )
    parser.add_argument("--policy", default="time", help="default: %(default)s")
    parser.add_argument(
        "--without-audit", action="store_true", help="compare with sessions that keep no record, instead of with none"
    )
    parser.add_argument("--profile", action="store_true", help="show where the tracer's time goes, build by build")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time too")
    args = parser.parse_args()
    machine = {"kernel": platform.release(), "cores": os.cpu_count(), "load_at_start": load(), "runs": args.runs}
    machine["policy"] = args.policy
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()), flush=True)
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory(prefix="detbuild-bench-") as temporary:
            top = Path(temporary)
            (top / "loop.c").write_text(LOOP)
            run(["gcc", "-O2", "-o", str(top / "loop"), str(top / "loop.c")])
            bench = Bench(top, args.policy, args.without_audit)
            pairs, profiles = [bench.paired("true", start_seconds, 4 * args.runs)], []
            for package, command in sources.BUILDS.items():
                measure = build_seconds(sources.unpack(package, top / package), command)
                pairs.append(bench.paired(f"{package}: {command}", measure, args.runs))
                profiles += [f"{package}:\n{bench.profile(measure)}"] if args.profile else []
            loop = bench.paired("time(2)", loop_seconds(top / "loop", args.calls), args.runs)
    except (DetbuildError, sources.Unavailable) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    show(pairs, loop)
    print(f"load at end {load()}", *profiles, sep="\n")
    if args.json:
        record = {"format": FORMAT, "version": VERSION, **machine, "load_at_end": load()}
        record |= {"pairs": [asdict(entry) for entry in pairs], "seconds_a_call": asdict(loop)}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
