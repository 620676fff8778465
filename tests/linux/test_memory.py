"""Another process's memory, with that process's own rights."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from detbuild.linux import memory


def address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def test_write_and_read_reach_another_process() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.read(reader, 1)
        os._exit(int(page[5:8] == b"new"))
    memory.write(child, address(page) + 5, b"new")
    assert memory.read(child, address(page) + 5, 3) == b"new"
    assert page[5:8] == b"\0\0\0"
    os.write(writer, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    os.close(reader)
    os.close(writer)


def _protected(protection: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    private_anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return int(libc.mmap(None, mmap.PAGESIZE, protection, private_anonymous, -1, 0))


@pytest.mark.parametrize("where", ["read-only", "no access", "null", "kernel"])
def test_a_write_where_the_process_may_not_write_is_efault(where: str) -> None:
    target = {
        "read-only": _protected(mmap.PROT_READ),
        "no access": _protected(0),
        "null": 0,
        "kernel": 0xFFFF_8000_0000_0000,
    }[where]
    with pytest.raises(OSError, match="process_vm_writev") as raised:
        memory.write(os.getpid(), target, b"12345678")
    assert raised.value.errno == errno.EFAULT


def test_a_write_over_the_end_of_a_mapping_is_efault() -> None:
    low = _protected(mmap.PROT_READ | mmap.PROT_WRITE)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(low), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
    libc = ctypes.CDLL(None)
    both = mmap.mmap(-1, 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc.mprotect(ctypes.c_void_p(address(both) + mmap.PAGESIZE), mmap.PAGESIZE, 0)
    with pytest.raises(OSError) as raised:  # noqa: PT011
        memory.write(os.getpid(), address(both) + mmap.PAGESIZE - 4, b"12345678")
    assert raised.value.errno == errno.EFAULT
    assert memory.read(os.getpid(), address(both) + mmap.PAGESIZE - 4, 8) != b"12345678"
    libc.mprotect(ctypes.c_void_p(address(both) + mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)


def test_a_process_that_is_gone_is_esrch() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        memory.read(child, 4096, 1)
