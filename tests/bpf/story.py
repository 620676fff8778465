"""What the programs do to their maps, compiled as an ordinary program: the kernel and its maps are a few lines of C."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from detbuild.bpf import layout
from detbuild.daemon import loader
from detbuild.engine import stream

# A map is a list of rows, whose methods are functions of the same name; BCC's methods become calls of them.
KERNEL = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef uint64_t u64; typedef uint32_t u32; typedef uint16_t u16; typedef uint8_t u8;
typedef int64_t s64; typedef int32_t s32;
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
#define BPF_PERCPU_ARRAY(name, value, most) \
    struct rows name = {4, sizeof(value), 1, 1, (char[4 + sizeof(value)]){0}}
#define BPF_PROG_ARRAY(name, most)
static int (*called)(unsigned long long *); /* by every call of a table of programs, as often as the kernel does */
static int calls;
#define CALL(name, ctx, index) do { if (calls++ < 33) return called(ctx); } while (0)
#define BPF_TABLE(kind, key, value, name, most) BPF_HASH(name, key, value, most)
static u64 ids, now;
static char registers[4096];
static int writable; /* and readable: programs' memory */
static u64 bpf_get_current_pid_tgid(void) { return ids; }
static u64 bpf_get_current_task_btf(void) { return 0; }
static void *bpf_task_pt_regs(u64 task) { return registers; }
static u64 bpf_ktime_get_boot_ns(void) { return ++now; }
static u64 bpf_ktime_get_ns(void) { return ++now; }
static int bpf_probe_read_kernel(void *to, u32 size, const void *from) { memcpy(to, from, size); return 0; }
static int bpf_probe_read_user(void *to, u32 size, const void *from)
{
    if (!writable) return -14;
    memcpy(to, from, size);
    return 0;
}
static int bpf_probe_write_user(void *to, const void *from, u32 size) { return bpf_probe_read_user(to, size, from); }
"""
OFFSETS = {"TASK_PID": 0, "TASK_TGID": 4, "TASK_THREAD_PID": 8, "TASK_SIGNAL": 16, "SIGNAL_LIVE": 24}
OFFSETS |= {"PID_LEVEL": 28, "PID_NUMBERS": 32, "SIZE_UPID": 16, "BINPRM_ARGC": 0, "BINPRM_ENVC": 0}
SIZES = {"MAX_PROCESSES": 4, "SESSION_PROCESSES": 4, "MAX_SESSIONS": 4, "MAX_COUNTS": 16, "SESSION_COUNTS": 2}


def happens(tmp_path: Path, scene: str, *story: str) -> list[str]:
    """What statements print that call the functions of a scene and of the programs."""
    parts = [(loader._BPF / name).read_text() for name in ("common.h", "clock.bpf.c", "tree.bpf.c", "device.bpf.c")]
    source = re.sub(r"\b(\w+)\.(lookup|update|insert|delete)\(", r"\2(&\1, ", "".join(parts))
    source = re.sub(r"\b(\w+)\.call\(", r"CALL(&\1, ", source)
    main = "int main(void) {\n" + "\n".join(f"{line};" for line in story) + "\n}\n"
    (tmp_path / "story.c").write_text(KERNEL + source + scene + main)
    values = layout.defines(1024, 16, stream.DEVICE) | OFFSETS | SIZES | {"MAX_RUNS": 16}
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
