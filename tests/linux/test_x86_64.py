"""The system call tables against the kernel's own headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detbuild.linux import x86_64_calls
from detbuild.linux.x86_64 import ABIS, I386, NATIVE

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")
LEGACY_X32 = range(512, 548)
LATE = {"uretprobe", "uprobe"}  # Linux 6.11 and 6.18 gave them numbers in a gap that was older


def header(name: str) -> dict[str, int]:
    """A header's calls; x32's without its bit."""
    path = HEADERS / name
    if not path.exists():
        pytest.skip(f"{path} is not installed (linux-libc-dev)")
    numbers = re.findall(r"^#define __NR_(\w+) \(?(?:__X32_SYSCALL_BIT \+ )?(\d+)\)?$", path.read_text(), re.MULTILINE)
    return {call: int(number) for call, number in numbers}


@pytest.mark.parametrize(
    ("name", "table"), [("unistd_64.h", x86_64_calls.NATIVE), ("unistd_32.h", x86_64_calls.I386)], ids=["64", "32"]
)
def test_every_call_of_the_kernels_header_has_its_number(name: str, table: dict[str, int]) -> None:
    """The kernel's own list on this machine; linux-libc-dev may be of an elder kernel than the tables."""
    calls = header(name)
    assert len(calls) > 350
    assert {call: table.get(call) for call in calls} == calls
    latest = max(calls.values())
    assert {call for call, number in table.items() if number <= latest} - calls.keys() <= LATE


def test_x32_shares_the_64_bit_table_but_for_its_own_range() -> None:
    calls = header("unistd_x32.h")
    own = {call: number for call, number in calls.items() if number in LEGACY_X32}
    assert own == x86_64_calls.X32
    shared = calls.keys() - own.keys()
    assert len(shared) > 300
    assert {call: NATIVE.numbers[call] for call in shared} == {call: calls[call] for call in shared}


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_no_number_stands_twice(abi: object) -> None:
    numbers = NATIVE.numbers if abi is NATIVE else I386.numbers
    assert len(set(numbers.values())) == len(numbers)


def test_the_tables_reach_linux_6_18() -> None:
    """The numbers that arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl of Linux 6.18 give.

    The first has rows "common" and "64" for 0 to 336 and for 424 to 469, which makes 383 calls; the second has 0 to
    469 without the eleven below, which makes 459. The names behind them are counted against the kernel's own headers
    above, as far as those of this machine go.
    """
    unused = {222, 223, 251, 285, *range(387, 393), 415}
    assert set(NATIVE.numbers.values()) == {*range(337), *range(424, 470)}
    assert set(I386.numbers.values()) == {*range(470)} - unused
    assert (len(NATIVE.numbers), len(I386.numbers)) == (383, 459)
    assert max(NATIVE.numbers.values()) == max(I386.numbers.values()) == NATIVE.numbers["file_setattr"] == 469
