"""What is claimed of the gaps: what BPF could not hold, each kind provoked on the real kernel, is counted and told."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from claims_by_hand import spin
from hand import EPOCH, LATER, PLACE, Hand, State, read_clock

from daemon import PINS
from detbuild import Session
from detbuild.daemon import kernel as daemon_kernel
from detbuild.daemon.config import Settings
from detbuild.daemon.kernel import Kernel
from detbuild.linux.libc import libc

_SKIPPED = "programs skipped"

# Builds programs with room for hardly anything, that follow one caller at a time and misread an executed program's
# stack, and take a row of runs away from nobody.
_POOR = """
import sys
sys.path[:0] = [sys.argv.pop(1)]
from detbuild.daemon import loader
source = loader.source().replace(b'"lru_hash"', b'"hash"')
loader.source = lambda: source
loader._COUNTS = loader._RUNS = loader._PASSING = loader._WAITING = 1
loader._OFFSETS["BINPRM_ENVC"] = loader._OFFSETS["BINPRM_ARGC"]
loader.main()
"""


@contextmanager
def _poor() -> Iterator[Kernel]:
    """Compiled once, and unloaded by whoever needs it last."""
    former, daemon_kernel._START = daemon_kernel._START, _POOR
    try:
        pins = "/sys/fs/bpf/detbuild-poor"
        yield Kernel.load(Settings(max_processes=24, max_sessions=8, pins=pins, probes="kprobe"))
    finally:
        daemon_kernel._START = former


def _gaps(kernel: Kernel, by_hand: Hand) -> dict[str, int]:
    """Kind -> count. That probes were skipped depends on what else the machine does."""
    _, gaps = kernel.counters(by_hand.number)
    return {gap["kind"]: gap["count"] for gap in gaps if gap["kind"] != _SKIPPED}


def _forked(work: Callable[[], Any]) -> None:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    os.waitpid(child, 0)


def _sleepers(count: int, seconds: float) -> list[int]:
    """Children that sleep, all at once, and end."""
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            time.sleep(seconds)
            os._exit(0)
        children.append(child)
    return children


def a_session_with_too_many_processes_has_a_gap(state: State) -> None:
    def work() -> int:
        children = _sleepers(40, 60)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return len(children)

    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        assert by_hand.run(work) == "40\n"
        assert _gaps(kernel, by_hand) == {"process table full": 29}


def a_process_whose_last_thread_found_no_room_leaves_nothing_behind(state: State) -> None:
    """The threads that end first are those that were held."""

    def crowd() -> None:
        ready = threading.Event()

        def live(seconds: int) -> None:
            ready.wait()
            time.sleep(seconds)

        for number in range(40):
            threading.Thread(target=live, args=(5 if number == 39 else 0,)).start()
        ready.set()
        libc.syscall(ctypes.c_long(60), ctypes.c_long(0))  # exit(2) ends this thread alone

    def work() -> str:
        _forked(crowd)
        return "done"

    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        assert by_hand.run(work) == "done\n"
        assert set(_gaps(kernel, by_hand)) == {"process table full"}
        left = {name: [key for key, _ in kernel._maps[name].items()] for name in ("threads", "processes", "aliases")}
        assert left == {"threads": [], "processes": [], "aliases": []}, left


def reads_without_a_row_in_the_audit_are_a_gap(state: State) -> None:
    def work() -> int:
        day = (ctypes.c_int64 * 2)()
        read_clock()
        return sum(libc.syscall(ctypes.c_long(96), day, None) == 0 and day[0] == EPOCH for _ in range(3))

    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        assert by_hand.run(work) == "3\n"  # held all the same
        assert _gaps(kernel, by_hand) == {"audit incomplete": 3}


def runs_that_cannot_be_counted_are_a_gap(state: State) -> None:
    def generations() -> None:
        # A run is known by its parent: the second one has another.
        read_clock()
        _forked(read_clock)

    def work() -> str:
        _forked(generations)
        return "done"

    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        assert by_hand.run(work) == "done\n"
        assert _gaps(kernel, by_hand) == {"runs not counted": 1}


def a_program_that_keeps_its_vdso_is_a_gap(state: State) -> None:
    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        by_hand.run(["date", "+%s"])  # what it sees depends on whether this machine's vDSO can tell the time itself
        assert _gaps(kernel, by_hand) == {"vDSO in reach": 1}


def return_probes_that_the_kernel_skips_are_a_gap(state: State) -> None:
    def sleepers() -> int:
        return sum(os.waitpid(child, 0)[0] == child for child in _sleepers(8, 5))

    with _poor() as kernel, Hand(kernel, EPOCH) as by_hand:
        assert by_hand.run(sleepers) == "8\n"
        skipped = [gap["count"] for gap in kernel.counters(by_hand.number)[1] if gap["kind"] == _SKIPPED]
        assert skipped
        assert skipped[0] >= 7, skipped
    assert kernel.unload()


_BUSY_IN_BPF = """
import sys
sys.path[:0] = [sys.argv.pop(1)]
from pathlib import Path
from detbuild.daemon.kernel import Kernel
kernel = Kernel(Path(sys.argv[1]))
while True:
    list(kernel._maps["processes"].items())
"""


def reads_where_another_program_was_interrupted_in_bpf_are_a_gap(state: State) -> None:
    """Any tool may look at its maps while a build runs, and be interrupted at it."""
    words = [sys.executable, "-c", _BUSY_IN_BPF, str(PLACE / "lib"), str(PINS / state.kernel.name)]
    tool = subprocess.Popen(words)
    try:
        for _ in range(20):
            with state.hand() as by_hand:
                real = sum(map(int, by_hand.run([str(spin())]).split()))
                skipped = [each for each in state.kernel.counters(by_hand.number)[1] if each["kind"] == _SKIPPED]
            assert skipped or not real, (skipped, real)
            if real:
                return
        raise AssertionError("no read was ever real")
    finally:
        tool.kill()
        tool.wait()


def fexit_programs_that_the_kernel_skips_are_a_gap(state: State) -> None:
    """Under full preemption the daemon does not use them, for this reason."""
    fexit = Kernel.load(Settings(pins="/sys/fs/bpf/detbuild-fexit", probes="fexit"))
    try:
        with Hand(fexit, EPOCH) as by_hand:
            real = sum(map(int, by_hand.run([str(spin())]).split()))
            skipped = [gap["count"] for gap in fexit.counters(by_hand.number)[1] if gap["kind"] == _SKIPPED]
        assert real
        assert sum(skipped) >= real, (skipped, real)
    finally:
        assert fexit.unload()


def programs_whose_rule_nobody_decided_are_a_gap_and_see_the_epoch(state: State) -> None:
    def work() -> str:
        command = ["/usr/bin/date", "+%s"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with state.hand() as by_hand:
        assert by_hand.run(work) == f"{EPOCH}\n"
        assert _gaps(state.kernel, by_hand) == {"rule not decided": 1}


def a_sleep_whose_duration_is_out_of_reach_is_a_gap(state: State) -> None:
    def work() -> int:
        libc.mmap.restype = ctypes.c_void_p
        page = libc.mmap(None, ctypes.c_long(4096), 3, 0x22, -1, ctypes.c_long(0))
        (ctypes.c_int64 * 2).from_address(page)[:] = [4, 0]
        results: list[int] = []
        sleep = (ctypes.c_long(35), ctypes.c_void_p(page), None)  # nanosleep
        thread = threading.Thread(target=lambda: results.append(libc.syscall(*sleep)))
        thread.start()
        time.sleep(1)
        libc.munmap(ctypes.c_void_p(page), ctypes.c_long(4096))
        thread.join()
        return results[0]

    with state.hand() as by_hand:
        assert by_hand.run(work) == "0\n"
        assert _gaps(state.kernel, by_hand) == {"sleep not counted": 1}


_RACE = """
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static struct timespec *page, *view;
static void *toggle(void *unused) {
  for (;;) { mprotect(page, 4096, PROT_NONE); mprotect(page, 4096, PROT_READ | PROT_WRITE); }
}
int main(void) {
  int file = memfd_create("page", 0), real = 0;
  pthread_t other;
  ftruncate(file, 4096);
  page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  view = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  pthread_create(&other, 0, toggle, 0);
  for (long i = 0; i < 10000000 && !real; i++) {
    view->tv_sec = 0;
    if (!syscall(SYS_clock_gettime, 0, page)) real += view->tv_sec > %d;
  }
  printf("%%d\\n", real);
  fflush(stdout);
  _exit(0);
}
"""


def a_result_that_could_not_be_rewritten_is_a_gap_in_the_sessions_record(state: State) -> None:
    """A thread takes the page away between the kernel's write and ours, which it achieves once in a while."""
    source = PLACE / "race.c"
    source.write_text(_RACE % LATER)
    subprocess.run(["gcc", "-O1", "-w", "-pthread", "-o", PLACE / "race", source], check=True)
    within = Session(EPOCH, engine="ebpf")
    command = ["timeout", "-s", "KILL", "100", str(PLACE / "race")]
    done = within.run(command, stdout=subprocess.PIPE, text=True, timeout=150, check=False, cwd="/")
    assert done.stdout == "1\n", "the page was never taken away in time"
    assert {gap.kind: count for gap, count in within.audit.gaps.items()} == {"memory out of reach": 1}
