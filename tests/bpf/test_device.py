"""The bytes of random devices: BPF makes the same as the tracer, wherever the caller wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import happens

from detbuild.engine.stream import DEVICE, Stream, mixed

KEY = 0x1234_5678_9ABC_DEF0
LARGEST = 32768 * 3 * 34  # bytes: of the first run, and of as many more as the kernel allows
SCENE = r"""
static unsigned char memory[6000000];
static unsigned long long args[12];
static void open_session(u32 devices, u32 flags)
{
    u32 number = 1, pid = 10;
    struct session session = {.devices = devices};
    struct process process = {.session = 1, .flags = flags};
    struct thread thread = {.session = 1, .tgid = 10, .stream = STREAM};
    ids = (u64)10 << 32 | 10;
    writable = 1;
    update(&sessions, &number, &session);
    update(&processes, &pid, &process);
    add_thread(10, &thread);
}
static void calls_device(u64 number, u64 second, u64 second32, u64 size)
{
    *(u64 *)(registers + R_ORIG_AX) = number;
    *(u64 *)(registers + N2) = second;
    *(u64 *)(registers + C2) = second32;
    args[10] = size;
    calls = 0;
    called = exit__urandom_read_iter;
    called(args);
}
static void reads(u64 size) { calls_device(0, (u64)memory, 0, size); }
static void show(u64 from, u64 to)
{
    for (u64 i = from; i < to; i++) printf("%02x", memory[i]);
    printf("\n");
}
static void say(void)
{
    u32 number = 1, tid = 10;
    printf("%d draws, %d gaps\n", (int)((struct thread *)lookup(&threads, &tid))->draws,
           (int)((struct session *)lookup(&sessions, &number))->gaps[GAP_DEVICE]);
}
""".replace("STREAM", f"0x{KEY:x}ULL")


def tracers(*sizes: int) -> list[str]:
    """The bytes of reads of so many, one after the other."""
    stream = Stream(KEY.to_bytes(8, "little"))
    return [stream.take_of_device(size).hex() for size in sizes]


def test_reads_one_after_the_other_are_the_tracers(tmp_path: Path) -> None:
    sizes = (1, 7, 8, 9, 0, 4096, 33)
    story = [line for size in sizes for line in (f"reads({size})", f"show(0, {size})")]
    assert happens(tmp_path, SCENE, "open_session(1, 0)", *story, "say()") == [*tracers(*sizes), "7 draws, 0 gaps"]


@pytest.mark.parametrize("size", [511, 512, 513, 32767, 32768, 32769, 98304, 98305, 3000017, LARGEST])
def test_a_large_read_is_the_tracers(tmp_path: Path, size: int) -> None:
    said = happens(tmp_path, SCENE, "open_session(1, 0)", f"reads({size})", f"show(0, {size + 1})", "say()")
    assert said == [*(f"{whole}00" for whole in tracers(size)), "1 draws, 0 gaps"]


def test_what_is_larger_than_the_kernel_lets_a_program_write_is_a_gap(tmp_path: Path) -> None:
    said = happens(tmp_path, SCENE, "open_session(1, 0)", f"reads({LARGEST + 1})", "say()", "reads(8)", "show(0, 8)")
    assert said == ["1 draws, 1 gaps", tracers(1, 8)[1]]


@pytest.mark.parametrize("number", [19, 295, 327])
def test_vectors_are_filled_one_after_the_other(tmp_path: Path, number: int) -> None:
    """The last one is longer than what the kernel gave."""
    pieces = ((0, 5), (100, 0), (200, 16000), (50000, 99))
    vectors = ", ".join(f"(u64)memory + {place}, {size}" for place, size in pieces)
    story = [f"u64 vectors[] = {{{vectors}}}", f"calls_device({number}, (u64)vectors, 0, 16010)"]
    story += ["show(0, 6)", "show(200, 16200)", "show(50000, 50006)"]
    said = happens(tmp_path, SCENE, "open_session(1, 0)", *story)
    whole = tracers(16010)[0]
    assert said == [f"{whole[:10]}00", whole[10:32010], f"{whole[32010:]}00"]


def test_more_vectors_than_are_looked_at_are_a_gap(tmp_path: Path) -> None:
    story = ["u64 vectors[40]", "for (int i = 0; i < 20; i++) vectors[2 * i] = (u64)memory, vectors[2 * i + 1] = 1"]
    said = happens(tmp_path, SCENE, "open_session(1, 0)", *story, "calls_device(19, (u64)vectors, 0, 20)", "say()")
    assert said == ["1 draws, 1 gaps"]


def test_a_call_that_moves_bytes_elsewhere_is_a_gap(tmp_path: Path) -> None:
    said = happens(tmp_path, SCENE, "open_session(1, 0)", "calls_device(40, (u64)memory, 0, 8)", "show(0, 8)", "say()")
    assert said == ["00" * 8, "1 draws, 1 gaps"]


def test_memory_that_cannot_be_written_is_a_gap(tmp_path: Path) -> None:
    assert happens(tmp_path, SCENE, "open_session(1, 0)", "writable = 0", "reads(8)", "say()") == ["1 draws, 1 gaps"]


@pytest.mark.parametrize("opened", ["0, 0", "1, SPARED", "1, OBSERVED", "1, RANDOM_REAL"])
def test_who_sees_the_real_world_has_the_real_bytes(tmp_path: Path, opened: str) -> None:
    said = happens(tmp_path, SCENE, f"open_session({opened})", "reads(8)", "show(0, 8)", "say()")
    assert said == ["00" * 8, "0 draws, 0 gaps"]


@pytest.mark.parametrize("returned", ["-4", "-512"])
def test_a_read_that_failed_counts_for_nothing(tmp_path: Path, returned: str) -> None:
    assert happens(tmp_path, SCENE, "open_session(1, 0)", f"reads({returned})", "say()") == ["0 draws, 0 gaps"]


def test_no_child_has_a_reads_key() -> None:
    keys = {mixed(KEY, first + number) for number in range(1, 5000) for first in (0, DEVICE)}
    assert len(keys) == 2 * 4999
