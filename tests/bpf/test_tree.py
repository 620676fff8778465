"""What the programs do to their maps, compiled as an ordinary program: the kernel and its maps are a few lines of C."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from detbuild.bpf import layout
from detbuild.daemon import loader

# A map is a list of rows, whose methods are functions of the same name; BCC's methods become calls of them.
KERNEL = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef uint64_t u64; typedef uint32_t u32; typedef uint16_t u16; typedef int64_t s64; typedef int32_t s32;
#define __always_inline inline
struct rows { int key, value, most, count; char *data; };
static char *row_of(struct rows *rows, const void *key)
{
    for (int i = 0; i < rows->count; i++) {
        char *row = rows->data + i * (rows->key + rows->value);
        if (!memcmp(row, key, rows->key)) return row;
    }
    return 0;
}
static void *lookup(struct rows *rows, const void *key)
{
    char *row = row_of(rows, key);
    return row ? row + rows->key : 0;
}
static int update(struct rows *rows, const void *key, const void *value)
{
    char *row = row_of(rows, key);
    if (!row) {
        if (rows->count == rows->most) return -7;
        if (!rows->data) rows->data = malloc(rows->most * (rows->key + rows->value));
        row = rows->data + rows->count++ * (rows->key + rows->value);
        memcpy(row, key, rows->key);
    }
    memcpy(row + rows->key, value, rows->value);
    return 0;
}
static int insert(struct rows *rows, const void *key, const void *value)
{
    return row_of(rows, key) ? -17 : update(rows, key, value);
}
static int delete(struct rows *rows, const void *key)
{
    char *row = row_of(rows, key);
    int size = rows->key + rows->value;
    if (!row) return -2;
    memmove(row, row + size, rows->data + --rows->count * size - row);
    return 0;
}
#define BPF_HASH(name, key, value, most) struct rows name = {sizeof(key), sizeof(value), most}
#define BPF_TABLE(kind, key, value, name, most) BPF_HASH(name, key, value, most)
static u64 ids, now;
static char registers[4096];
static u64 bpf_get_current_pid_tgid(void) { return ids; }
static u64 bpf_get_current_task_btf(void) { return 0; }
static void *bpf_task_pt_regs(u64 task) { return registers; }
static u64 bpf_ktime_get_boot_ns(void) { return ++now; }
static u64 bpf_ktime_get_ns(void) { return ++now; }
static int bpf_probe_read_kernel(void *to, u32 size, const void *from) { memcpy(to, from, size); return 0; }
static int bpf_probe_read_user(void *to, u32 size, const void *from) { return -14; }
static int bpf_probe_write_user(void *to, const void *from, u32 size) { return -14; }
"""
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
OFFSETS = {"TASK_PID": 0, "TASK_TGID": 4, "TASK_THREAD_PID": 8, "TASK_SIGNAL": 16, "SIGNAL_LIVE": 24}
OFFSETS |= {"PID_LEVEL": 28, "PID_NUMBERS": 32, "SIZE_UPID": 16, "BINPRM_ARGC": 0, "BINPRM_ENVC": 0}
SIZES = {"MAX_PROCESSES": 4, "SESSION_PROCESSES": 4, "MAX_SESSIONS": 4, "MAX_COUNTS": 16, "SESSION_COUNTS": 2}


def happens(tmp_path: Path, *story: str) -> list[str]:
    """What a story of the functions above prints."""
    parts = [(loader._BPF / name).read_text() for name in ("common.h", "clock.bpf.c", "tree.bpf.c")]
    source = re.sub(r"\b(\w+)\.(lookup|update|insert|delete)\(", r"\2(&\1, ", "".join(parts))
    main = "int main(void) {\n" + "\n".join(f"{line};" for line in story) + "\n}\n"
    (tmp_path / "story.c").write_text(KERNEL + source + SCENE + main)
    values = layout.defines(1024, 16) | OFFSETS | SIZES | {"MAX_RUNS": 16}
    defines = [f"-D{name}={value}" for name, value in values.items()]
    command: list[str | Path] = [
        "gcc",
        "-w",
        "-O1",
        "-fsanitize=undefined",
        *defines,
        "-o",
        tmp_path / "story",
        tmp_path / "story.c",
    ]
    subprocess.run(command, check=True)
    return subprocess.run([tmp_path / "story"], check=True, capture_output=True, text=True).stdout.splitlines()


NOTHING = "processes 0 threads 0 aliases 0 live 0"


def test_a_process_goes_with_its_last_thread(tmp_path: Path) -> None:
    story = ["open_session(1, 10)", "forks(10, 10, 10, 11)", "say(1)", "ends(10, 10, 1)", "say(1)", "ends(10, 11, 0)"]
    assert happens(tmp_path, *story, "say(1)") == [
        "processes 1 threads 2 aliases 2 live 1",
        "processes 1 threads 1 aliases 1 live 1",
        NOTHING,
    ]


def test_a_process_goes_with_its_last_thread_though_no_row_was_left_for_that(tmp_path: Path) -> None:
    """Or its row would wait for the next process with its number."""
    more = [f"forks(10, 10, 10, {tid})" for tid in (11, 12, 13, 14)]
    ends = [f"ends(10, {tid}, 1)" for tid in (10, 11, 12, 13)]
    assert happens(tmp_path, "open_session(1, 10)", *more, *ends, "say(1)", "ends(10, 14, 0)", "say(1)") == [
        "processes 1 threads 0 aliases 0 live 1",
        NOTHING,
    ]


@pytest.mark.parametrize("former", [11, 14], ids=["that has a row", "that has none"])
def test_a_process_that_executes_when_no_row_is_left_leaves_the_session(tmp_path: Path, former: int) -> None:
    """Nothing of it would be held, and it would be killed with the session."""
    more = [f"forks(10, 10, 10, {tid})" for tid in (11, 12, 13, 14)]
    story = ["open_session(1, 10)", *more, "ends(10, 10, 4)", "aliases.most = 2", f"executes(10, {former})"]
    story += ['printf("%d\\n", held(10))']
    assert happens(tmp_path, *story, "ends(10, 10, 0)", 'printf("%d\\n", (int)session_of(1)->live)') == ["0", "0"]


def test_a_supervisor_that_ends_answers_for_nobody_though_it_is_held_itself(tmp_path: Path) -> None:
    story = ["open_session(1, 10)", "update(&supervisors, &(u32){10}, &(u32){2})", "ends(10, 10, 0)"]
    assert happens(tmp_path, *story, 'printf("%d\\n", supervisors.count)') == ["0"]


def test_one_session_that_counts_too_many_programs_leaves_rows_to_another(tmp_path: Path) -> None:
    """It counts the others without their names, and has a gap; the other one has neither."""
    story = ["open_session(1, 10)", "open_session(2, 20)", "reads(1, 30)", "reads(1, 30)", "reads(2, 2)"]
    shown = 'printf("%d rows, %d gaps\\n", (int)session_of({0})->rows, (int)session_of({0})->gaps[GAP_COUNTS_FULL])'
    rest = "*(u64 *)lookup(&counts, &(struct count){.session = 1, .source = 1})"
    said = happens(tmp_path, *story, shown.format(1), shown.format(2), f'printf("%d\\n", (int){rest})')
    assert said == ["3 rows, 56 gaps", "2 rows, 0 gaps", "56"]
