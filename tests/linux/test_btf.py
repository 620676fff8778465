"""BTF, by a blob made by hand and by the running kernel's own."""

from __future__ import annotations

import struct

import pytest

from detbuild.linux import btf
from detbuild.linux.btf import Btf

# Names at their offsets: 1 int, 5 thing, 11 a, 13 b, 15 go
STRINGS = b"\0int\0thing\0a\0b\0go\0"
INT, FUNC_PROTO = 1, 13


def _type(name: int, kind: int, members: int, size: int) -> bytes:
    return struct.pack("<III", name, kind << 24 | members, size)


TYPES = (
    _type(1, INT, 0, 4)
    + struct.pack("<I", 32)  # 1: int
    + _type(0, btf._STRUCT, 1, 4)
    + struct.pack("<III", 13, 1, 0)  # 2: struct { int b; }
    + _type(5, btf._STRUCT, 2, 8)
    + struct.pack("<IIIIII", 11, 1, 0, 0, 2, 32)  # 3: struct thing { int a; struct { int b; }; }
    + _type(0, FUNC_PROTO, 0, 1)  # 4
    + _type(15, btf._FUNC, 0, 4)  # 5: go
    + _type(15, btf._VAR, 0, 1)
    + struct.pack("<I", 1)  # 6: a variable go, of another file
)


@pytest.fixture
def made() -> Btf:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(TYPES), len(TYPES), len(STRINGS))
    return Btf(header + TYPES + STRINGS)


def test_members_are_found_also_in_nameless_structs(made: Btf) -> None:
    assert [made.offset("thing", member) for member in "ab"] == [0, 4]
    assert made.size("thing") == 8


def test_a_function_has_its_number_and_other_names_have_none(made: Btf) -> None:
    assert [made.function(name) for name in ("go", "thing", "o", "stop")] == [5, 0, 0, 0]


def test_a_variable_has_a_number_of_its_own(made: Btf) -> None:
    assert [made.variable(name) for name in ("go", "thing", "o", "stop")] == [6, 0, 0, 0]


def test_what_is_not_there_is_an_error(made: Btf) -> None:
    with pytest.raises(KeyError, match="no c"):
        made.offset("thing", "c")
    with pytest.raises(KeyError):
        made.size("nothing")


@pytest.mark.parametrize("data", [b"", b"\0" * 24, b"\x9f\xeb\x02" + b"\0" * 21], ids=["empty", "zeros", "version 2"])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no BTF"):
        Btf(data)


def test_the_running_kernel_is_understood() -> None:
    if not btf.VMLINUX.exists():
        pytest.skip("this kernel carries no BTF")
    kernel = Btf.of_kernel()
    assert kernel.offset("task_struct", "tgid") == kernel.offset("task_struct", "pid") + 4
    assert kernel.size("upid") == 16
    assert kernel.function("__x64_sys_clock_gettime")
    assert kernel.variable("bpf_prog_active")
