"""Which runs of one command line are a loop that waits for the clock, and which are parallel jobs."""

from __future__ import annotations

from detbuild.engine.clock import PATIENCE
from detbuild.engine.runs import RUNS, Runs


def one_after_the_other(runs: Runs, count: int, executed: bool = True) -> list[int]:
    ahead = []
    for moment in range(count):
        ahead.append(runs.begin(10 * moment, executed))
        runs.end(10 * moment + 5)
    return ahead


def test_from_the_17th_run_after_another_the_clock_moves_by_a_second_a_run() -> None:
    assert one_after_the_other(Runs(), RUNS + 3) == [*[0] * RUNS, 1, 2, 3]


def test_children_that_never_execute_have_the_patience_of_a_read() -> None:
    assert one_after_the_other(Runs(), PATIENCE + 2, executed=False) == [*[0] * PATIENCE, 1, 2]


def test_jobs_that_live_at_once_see_one_time_in_any_order() -> None:
    runs = Runs()
    assert [runs.begin(moment, True) for moment in reversed(range(PATIENCE))] == [0] * PATIENCE
    assert runs.begin(PATIENCE, True) == 1


def test_a_job_that_was_forked_before_the_one_before_had_ended_starts_the_count_anew() -> None:
    runs = Runs()
    one_after_the_other(runs, RUNS)
    assert runs.begin(10 * RUNS - 6, True) == 0  # the last one ended at 10 * RUNS - 5
    runs.end(10 * RUNS)
    assert runs.begin(10 * RUNS + 1, True) == 0
