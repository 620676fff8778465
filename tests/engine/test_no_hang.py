"""Nothing hangs, spins or returns early in a session: timers, timeouts, events and crowds of short processes."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from results import (
    ENGINES,
    EPOCH,
    PYTHON,
    SOURCES,
    Processors,
    Result,
    build,
    gaps,
    measured_processors,
    run,
    timely,
)

from detbuild.engine.clock import PATIENCE
from detbuild.engine.runs import RUNS

pytestmark = [pytest.mark.parametrize("engine", ENGINES), pytest.mark.parametrize("policy", ["time", "strict"])]

# How many times slower than a real machine this one is: an emulated one says so.
SLOWER = int(os.environ.get("DETBUILD_TESTS_SLOWER", "1"))
WAIT = min(300 * SLOWER, 900)  # milliseconds; timers of the program want less than a second
TOLERANCE = min(150 * SLOWER, WAIT * 2 // 3)  # an early end is out of it
CASES = re.findall(r"CASE\((\w+)\)[,}]", (SOURCES / "timeouts.c").read_text())
SHORT_PROCESSES = 1500 // SLOWER
# strict has four times the stops, and two processors have other work as well.
PER_SECOND = {"time": 500 // SLOWER, "strict": 200 // SLOWER}
SECONDS = {"time": 60, "strict": 10}

Rows = dict[str, list[str]]


@cache
def _rows(engine: str, policy: str, program: Path) -> tuple[Rows, list[str]]:
    """Case -> result, milliseconds; and the engine's gaps."""
    result = run(engine, program, str(WAIT), policy=policy)
    assert not result.err
    return {name: rest for name, *rest in map(str.split, result.lines)}, gaps(result)


@pytest.mark.parametrize("kind", ["dynamic", "static32"])
@pytest.mark.parametrize("case", CASES)
def test_what_ends_in_time_outside_ends_in_time_inside(engine: str, policy: str, case: str, kind: str) -> None:
    program = build("timeouts", kind)
    (inside, found), (outside, _) = _rows(engine, policy, program), _rows("", "", program)
    result, elapsed = inside[case]
    if abs(int(elapsed) - int(outside[case][1])) > TOLERANCE:
        # All cases wait at once; on a busy machine one of them may not get its turn in time.
        result, elapsed = run(engine, program, str(WAIT), case, policy=policy).out.split()[1:]
    assert result == outside[case][0]
    assert abs(int(elapsed) - int(outside[case][1])) <= TOLERANCE
    assert not found


def test_hundreds_of_short_processes_a_second_end_as_outside(engine: str, policy: str) -> None:
    seconds = SECONDS[policy]
    started = PER_SECOND[policy] * seconds
    crowd = [str(build("crowd", "static")), str(PER_SECOND[policy]), str(seconds)]

    def beside() -> tuple[Result, str, Processors]:
        with measured_processors() as processors, subprocess.Popen(crowd, stdout=subprocess.PIPE, text=True) as process:
            return run(engine, *crowd, timeout=180, policy=policy), process.communicate()[0], processors

    def lasts_as_long(found: tuple[Result, str, Processors]) -> bool:
        inside, outside = (int(out.split()[-1]) for out in (found[0].out, found[1]))
        # Where others leave no processor idle, what both took has to fit into the time that the crowd outside took.
        fits = found[2].were_all_taken and found[2].seconds <= outside / 1000 * (os.cpu_count() or 1)
        return bool(inside == pytest.approx(outside, rel=0.1)) or fits

    inside, outside, _ = found = timely(beside, lasts_as_long)
    # One command line, run again and again by one parent: its clock moves on by a second a run, from the 17th where
    # none overlap, from the 1,025th where all do.
    begun, on_time, late, _elapsed = map(int, inside.out.split())
    assert begun == started == int(outside.split()[0])
    assert on_time + late == started
    assert RUNS <= on_time <= PATIENCE
    assert lasts_as_long(found), found
    assert not gaps(inside)


def test_short_processes_one_after_the_other_all_end(engine: str, policy: str) -> None:
    script = f"i=0; while [ $i -lt {SHORT_PROCESSES} ]; do env true || exit 1; i=$((i+1)); done; echo $i; date +%s"
    result = run(engine, "sh", "-c", script, policy=policy)
    assert result.said == (0, f"{SHORT_PROCESSES}\n{EPOCH}\n", "")
    assert not gaps(result)


def test_short_processes_side_by_side_all_end(engine: str, policy: str) -> None:
    script = f"seq {SHORT_PROCESSES} | xargs -P8 -n5 echo | sort -n | cksum"
    inside, outside = run(engine, "sh", "-c", script, policy=policy), run("", "sh", "-c", script)
    assert inside.said == outside.said
    assert inside.out


def test_python_waits_as_outside(engine: str, policy: str) -> None:
    script = """
import asyncio, queue, select, signal, socket, subprocess, threading, time
def lasts(wait):
    start = time.monotonic()
    try: wait()
    except (queue.Empty, TimeoutError, subprocess.TimeoutExpired, BlockingIOError): pass
    print(round(time.monotonic() - start, 1), end=" ")
lasts(lambda: threading.Event().wait(0.2))
lasts(lambda: queue.Queue().get(timeout=0.2))
lasts(lambda: select.select([], [], [], 0.2))
lasts(lambda: asyncio.run(asyncio.sleep(0.2)))
lasts(lambda: asyncio.run(asyncio.wait_for(asyncio.sleep(99), 0.2)))
lasts(lambda: subprocess.run(["sleep", "99"], timeout=0.2))
signal.signal(signal.SIGALRM, lambda *_: None)
lasts(lambda: (signal.setitimer(signal.ITIMER_REAL, 0.2), signal.pause()))
a, b = socket.socketpair(); a.settimeout(0.2)
lasts(lambda: a.recv(1))
"""

    def in_time(result: Result) -> bool:
        return all(0.2 <= float(seconds) <= 0.2 + 0.2 * SLOWER for seconds in result.out.split())

    result = timely(lambda: run(engine, PYTHON, "-I", "-c", script, policy=policy), in_time)
    assert not result.err
    assert in_time(result), result.out
    assert len(result.out.split()) == 8


def test_shells_wait_as_outside(engine: str, policy: str) -> None:
    script = (
        "read -t 0.2 x; echo $?; sleep 0.2 & wait; echo $?; coproc sleep 0.2; wait $COPROC_PID; echo $?; "
        "timeout -s INT 0.2 sleep 99; echo $?"
    )

    def late(found: tuple[Result, Result]) -> float:
        return abs(found[0].seconds - found[1].seconds)

    def both() -> tuple[Result, Result]:
        return run(engine, "bash", "-c", script, policy=policy), run("", "bash", "-c", script)

    found = timely(both, lambda found: late(found) < SLOWER)
    assert found[0].said == found[1].said
    assert late(found) < SLOWER
