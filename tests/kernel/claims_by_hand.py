"""What is claimed of the BPF programs alone: sessions by hand, without daemon, supervisor or filter."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import hand
from hand import EPOCH, LATER, PLACE, State, read_clock

from detbuild.daemon.admission import Admission
from detbuild.linux.libc import libc

PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]
NS = 1_000_000_000
START = EPOCH * NS
MICROSECOND = 1_000


def a_clock_moves_by_a_microsecond_a_read(state: State) -> None:
    with state.hand() as by_hand:
        seen = by_hand.run(lambda: [read_clock() - START for _ in range(3)])
        assert seen == f"{[0, MICROSECOND, 2 * MICROSECOND]}\n", seen
        assert state.kernel.counters(by_hand.number) == (
            [{"program_key": 0, "source": "clock_gettime", "outcome": "fixed", "count": 3}],
            [],
        )


def after_1024_reads_a_clock_moves_by_a_second_a_read(state: State) -> None:
    def work() -> list[int]:
        seen = [read_clock() - START for _ in range(1027)]
        return seen[1022:]

    with state.hand() as by_hand:
        seen = by_hand.run(work)
    patience = 1024 * MICROSECOND
    assert seen == f"{[1022000, 1023000, patience, patience + NS, patience + 2 * NS]}\n", seen


def a_thread_and_a_fork_go_on_from_their_maker_and_an_exec_starts_anew(state: State) -> None:
    def work() -> list[int]:
        read_clock()
        thread = hand.in_thread(read_clock) - START
        pipe = os.pipe()
        if os.fork() == 0:
            os.write(pipe[1], str(read_clock() - START).encode())
            os._exit(0)
        os.wait()
        fresh = subprocess.run(["date", "+%s%N"], capture_output=True, check=True).stdout
        return [thread, int(os.read(pipe[0], 99)), int(fresh) - START]

    with state.hand() as by_hand:
        assert by_hand.run(work) == f"{[MICROSECOND, MICROSECOND, 0]}\n"


def the_wall_clocks_are_fixed_and_the_others_real(state: State) -> None:
    def work() -> list[int]:
        return [clock for clock in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11) if abs(read_clock(clock) - START) < NS]

    with state.hand() as by_hand:
        assert by_hand.run(work) == "[0, 5, 8, 11]\n"


class _Pollfd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def _slept(number: int, *words: Any) -> int:
    """By how many ns a sleep moves the fixed clock, beside the microsecond of the read before."""
    before = read_clock()
    libc.syscall(ctypes.c_long(number), *words)
    return read_clock() - before - MICROSECOND


def every_sleep_moves_the_clock_by_as_much(state: State) -> None:
    def work() -> list[int]:
        zero, long, time_of = ctypes.c_long(0), ctypes.c_long, ctypes.c_int64 * 2

        def until() -> int:
            moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 600_000_000
            return _slept(230, long(1), long(1), time_of(moment // NS, moment % NS), zero)

        return [
            _slept(35, time_of(0, 20_000_001), zero),  # nanosleep
            _slept(230, long(1), zero, time_of(0, 30_000_002), zero),  # clock_nanosleep, relative
            until(),
            _slept(23, zero, zero, zero, zero, time_of(0, 40_000)),  # select
            _slept(270, zero, zero, zero, zero, time_of(0, 50_000_003), zero),  # pselect6
            _slept(7, zero, zero, long(60)),  # poll
            _slept(271, zero, zero, time_of(0, 70_000_004), zero, zero),  # ppoll
        ]

    with state.hand() as by_hand:
        seen = by_hand.run(work)
    # What is left of a sleep until a moment is rounded up.
    assert seen == f"{[20_000_001, 30_000_002, 600_000_000, 40_000_000, 50_000_003, 60_000_000, 70_000_004]}\n", seen


def a_sleep_that_is_stopped_and_goes_on_counts_once(state: State) -> None:
    def work() -> int:
        pipe = os.pipe()
        child = os.fork()
        if child == 0:
            slept = _slept(35, (ctypes.c_int64 * 2)(1, 0), ctypes.c_long(0))
            os.write(pipe[1], str(slept).encode())
            os._exit(0)
        for number in (signal.SIGSTOP, signal.SIGCONT) * 3:
            time.sleep(0.1)
            os.kill(child, number)
        os.waitpid(child, 0)
        return int(os.read(pipe[0], 99))

    with state.hand() as by_hand:
        assert by_hand.run(work) == f"{NS}\n"


def a_sleep_that_a_handler_ends_does_not_count(state: State) -> None:
    def work() -> int:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)  # again, where a busy machine comes to sleep late
        return _slept(35, (ctypes.c_int64 * 2)(5, 0), ctypes.c_long(0))

    with state.hand() as by_hand:
        assert by_hand.run(work) == "0\n"


def a_spared_process_sees_the_real_clock_and_its_children_the_epoch(state: State) -> None:
    def work() -> list[bool]:
        own = read_clock() > LATER * NS
        child = subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout
        return [own, int(child) == EPOCH]

    with state.hand(spared=True) as by_hand:
        assert by_hand.run(work) == "[True, True]\n"


def flags_give_the_real_clock_and_the_true_file_times(state: State) -> None:
    path = PLACE / "lib"
    true = str(int(path.stat().st_mtime))
    with state.hand(flags=2) as by_hand:
        assert by_hand.run(["stat", "-c", "%Y", str(path)]).strip() == true
        assert int(by_hand.run(["date", "+%s"])) == EPOCH
    with state.hand(flags=1) as by_hand:
        assert int(by_hand.run(["date", "+%s"])) > LATER
        assert by_hand.run(["stat", "-c", "%Y", str(path)]).strip() == str(EPOCH)


def a_program_that_a_thread_executes_is_held(state: State) -> None:
    script = "import os, threading as t\nt.Thread(target=lambda: os.execv('/bin/date', ['date', '+%s'])).start()"
    with state.hand() as by_hand:
        assert by_hand.run([*PYTHON, script]) == f"{EPOCH}\n"
    _nothing_is_left(state)


def a_set_user_id_program_leaves_the_session(state: State) -> None:
    path = PLACE / "set-user-id-date"
    shutil.copy("/bin/date", path)
    shutil.chown(path, "nobody")
    path.chmod(0o4755)
    with state.hand() as by_hand:
        assert int(by_hand.run([str(path), "+%s"])) > LATER
        [row] = state.kernel.counters(by_hand.number)[0]
        assert (row["outcome"], row["count"]) == ("leaked", 1), row
    _nothing_is_left(state)


def a_process_with_a_used_number_inherits_nothing(state: State) -> None:
    with state.hand() as by_hand:
        number = int(by_hand.run(os.getpid))
        pipe = os.pipe()
        for _ in range(20):
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
            child = os.fork()
            if child == 0:
                os.write(pipe[1], str(read_clock()).encode())
                os._exit(0)
            os.waitpid(child, 0)
            seen = int(os.read(pipe[0], 99))
            assert seen > LATER * NS
            if child == number:
                return
        raise AssertionError("the kernel did not give the number again")


def a_killed_process_leaves_nothing_behind(state: State) -> None:
    def work() -> int:
        for _ in range(50):
            child = os.fork()
            if child == 0:
                hand.in_thread(read_clock)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
        return 50

    with state.hand() as by_hand:
        assert by_hand.run(work) == "50\n"
    _nothing_is_left(state)


def every_process_of_a_session_is_known_for_its_own(state: State) -> None:
    """By when it began: in ticks for the daemon, in nanoseconds for BPF."""

    def work() -> bool:
        processes = [os.getpid()]
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.pause()
            processes.append(child)
        known = [state.kernel.held_by(pid) for pid in processes]
        for child in processes[1:]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return len(set(known)) == 1 and known[0] is not None

    with state.hand() as by_hand:
        assert by_hand.run(work) == "True\n"
    _nothing_is_left(state)


def a_session_that_is_dropped_lets_its_process_go(state: State) -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
    state.kernel.open(999, Admission(child, child, os.getpid(), EPOCH))
    assert state.kernel.held_by(child) == 999
    state.kernel.drop(999)
    assert state.kernel.held_by(child) is None
    assert not state.kernel.has(999)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _nothing_is_left(state)


def _nothing_is_left(state: State) -> None:
    left = {name: [key for key, _ in state.kernel._maps[name].items()] for name in ("threads", "processes", "aliases")}
    assert left == {"threads": [], "processes": [], "aliases": []}, left


SPINS, SPINNERS = 3000, 12


def spin() -> Path:
    """A program of which each of some processes reads the clock again and again, and prints how often it was real."""
    source = PLACE / "spin.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n"
        "int main(int argc, char **argv) {\n  int real = 0; struct timespec t;\n"
        f"  for (int p = 1; p < {SPINNERS} && fork(); p++);\n"
        f"  for (int i = 0; i < {SPINS}; i++) {{ syscall(SYS_clock_gettime, 0, &t); real += t.tv_sec > {LATER}; }}\n"
        '  printf("%d\\n", real); return 0; }\n'
    )
    program = source.with_suffix("")
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    return program


def under_load_no_read_is_real(state: State) -> None:
    """12 spinners on 2 CPUs: where the kernel preempts inside of itself, fexit would miss a third of these reads."""
    with state.hand() as by_hand:
        seen = by_hand.run([str(spin())]).split()
        reads, gaps = state.kernel.counters(by_hand.number)
    assert seen == ["0"] * SPINNERS, seen
    assert [row["count"] for row in reads] == [SPINS * SPINNERS], reads
    assert not gaps, gaps
