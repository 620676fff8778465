"""The process tree as BPF keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import happens

# A task is its numbers, how many threads its process has, and its pid.
SCENE = r"""
struct task { u32 pid, tgid; u64 thread_pid, signal; u32 live, level, nr; } made;
static unsigned long long args[12];
static void current(u32 tgid, u32 tid) { ids = (u64)tgid << 32 | tid; }
static u64 task(u32 tgid, u32 tid, u32 live)
{
    made = (struct task){tid, tgid, (u64)&made, (u64)&made, live, 0, tid};
    return (u64)&made;
}
static void forks(u32 tgid, u32 tid, u32 other, u32 child)
{
    current(tgid, tid);
    args[1] = task(other, child, 1);
    event__sched_process_fork(args);
}
static void ends(u32 tgid, u32 tid, u32 left)
{
    current(tgid, tid);
    args[0] = task(tgid, tid, left);
    event__sched_process_exit(args);
}
static void executes(u32 tgid, u32 former)
{
    current(tgid, tgid);
    args[0] = task(tgid, tgid, 1);
    args[1] = former;
    args[2] = (u64)registers;
    event__sched_process_exec(args);
}
static void open_session(u32 number, u32 opener)
{
    struct session session = {.live = 1};
    struct process process = {.session = number};
    struct thread thread = {.session = number, .tgid = opener, .number = opener};
    update(&sessions, &number, &session);
    update(&processes, &opener, &process);
    add_thread(opener, &thread);
}
static struct session *session_of(u32 number) { return lookup(&sessions, &number); }
static int held(u32 tgid) { return lookup(&processes, &tgid) != 0; }
static void reads(u32 number, u64 programs)
{
    for (u64 program = 1; program <= programs; program++) count_read(number, program, 1, 0);
}
static void say(u32 number)
{
    struct session *session = session_of(number);
    printf("processes %d threads %d aliases %d live %d\n", processes.count, threads.count, aliases.count,
           (int)session->live);
}
"""
NOTHING = "processes 0 threads 0 aliases 0 live 0"


def test_a_process_goes_with_its_last_thread(tmp_path: Path) -> None:
    story = ["open_session(1, 10)", "forks(10, 10, 10, 11)", "say(1)", "ends(10, 10, 1)", "say(1)", "ends(10, 11, 0)"]
    assert happens(tmp_path, SCENE, *story, "say(1)") == [
        "processes 1 threads 2 aliases 2 live 1",
        "processes 1 threads 1 aliases 1 live 1",
        NOTHING,
    ]


def test_a_process_goes_with_its_last_thread_though_no_row_was_left_for_that(tmp_path: Path) -> None:
    """Or its row would wait for the next process with its number."""
    more = [f"forks(10, 10, 10, {tid})" for tid in (11, 12, 13, 14)]
    ends = [f"ends(10, {tid}, 1)" for tid in (10, 11, 12, 13)]
    assert happens(tmp_path, SCENE, "open_session(1, 10)", *more, *ends, "say(1)", "ends(10, 14, 0)", "say(1)") == [
        "processes 1 threads 0 aliases 0 live 1",
        NOTHING,
    ]


@pytest.mark.parametrize("former", [11, 14], ids=["that has a row", "that has none"])
def test_a_process_that_executes_when_no_row_is_left_leaves_the_session(tmp_path: Path, former: int) -> None:
    """Nothing of it would be held, and it would be killed with the session."""
    more = [f"forks(10, 10, 10, {tid})" for tid in (11, 12, 13, 14)]
    story = ["open_session(1, 10)", *more, "ends(10, 10, 4)", "aliases.most = 2", f"executes(10, {former})"]
    story += ['printf("%d\\n", held(10))']
    assert happens(tmp_path, SCENE, *story, "ends(10, 10, 0)", 'printf("%d\\n", (int)session_of(1)->live)') == [
        "0",
        "0",
    ]


def test_a_supervisor_that_ends_answers_for_nobody_though_it_is_held_itself(tmp_path: Path) -> None:
    story = ["open_session(1, 10)", "update(&supervisors, &(u32){10}, &(u32){2})", "ends(10, 10, 0)"]
    assert happens(tmp_path, SCENE, *story, 'printf("%d\\n", supervisors.count)') == ["0"]


def test_one_session_that_counts_too_many_programs_leaves_rows_to_another(tmp_path: Path) -> None:
    """It counts the others without their names, and has a gap; the other one has neither."""
    story = ["open_session(1, 10)", "open_session(2, 20)", "reads(1, 30)", "reads(1, 30)", "reads(2, 2)"]
    shown = 'printf("%d rows, %d gaps\\n", (int)session_of({0})->rows, (int)session_of({0})->gaps[GAP_COUNTS_FULL])'
    rest = "*(u64 *)lookup(&counts, &(struct count){.session = 1, .source = 1})"
    said = happens(tmp_path, SCENE, *story, shown.format(1), shown.format(2), f'printf("%d\\n", (int){rest})')
    assert said == ["3 rows, 56 gaps", "2 rows, 0 gaps", "56"]
