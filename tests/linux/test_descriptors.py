"""Descriptors of a thread of another process, on this kernel and as before Linux 6.9."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import wait_for
from detbuild.engine.order import getdents
from detbuild.linux import descriptors, proc
from detbuild.linux.x86_64 import NATIVE

# A thread that opens a directory after the first lines, and tells its own id and the descriptor's number.
_THREAD = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
def work():
    exec(sys.argv[1])
    print(threading.get_native_id(), os.open("/", os.O_RDONLY), flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=work).start()
exec(sys.argv[2])
"""
_UNSHARE = "libc.unshare(0x400)"  # CLONE_FILES
_EXIT = "libc.syscall(60, 0)"  # of the first thread alone


@contextmanager
def thread(before: str = "", leader: str = "") -> Iterator[tuple[int, int]]:
    """A thread's id and the number of its descriptor; ``leader`` is what its process's first thread does then."""
    command = [sys.executable, "-I", "-S", "-c", _THREAD, before, leader]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        tid, number = map(int, process.stdout.readline().split())
        assert not leader or wait_for(lambda: proc.ended(process.pid))
        yield tid, number


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.9: a flag that no kernel knows yet."""
    monkeypatch.setattr(descriptors, "_PIDFD_THREAD", 1 << 20)


@pytest.mark.usefixtures("old")
def test_an_old_kernel_gives_the_table_that_a_thread_shares_with_its_process() -> None:
    with thread() as (tid, number):
        ours = descriptors.take_of_thread(tid, number)
        assert os.path.samestat(os.fstat(ours), os.stat("/"))
        os.close(ours)
        with pytest.raises(OSError, match="Bad file descriptor"):
            descriptors.take_of_thread(tid, 9999)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("story", [("", _EXIT), (_UNSHARE, "")], ids=["the first has ended", "a table of its own"])
def test_an_old_kernel_has_no_way_to_a_table_that_is_not_the_processs(story: tuple[str, str]) -> None:
    with thread(*story) as (tid, number):
        with pytest.raises(OSError, match="out of reach") as refused:
            descriptors.take_of_thread(tid, number)
        assert refused.value.errno == errno.ENOTSUP
        # Not the caller's own error: the kernel lists the directory, and the record counts a leak.
        assert getdents(tid, NATIVE, "getdents64", [number, 0, 512], {}) is None


@pytest.mark.parametrize("story", [("", _EXIT), (_UNSHARE, "")], ids=["the first has ended", "a table of its own"])
def test_a_thread_has_its_own_table_since_linux_6_9(story: tuple[str, str]) -> None:
    try:
        os.close(os.pidfd_open(os.getpid(), os.O_EXCL))
    except OSError:
        pytest.skip("this kernel has no PIDFD_THREAD")
    with thread(*story) as (tid, number):
        ours = descriptors.take_of_thread(tid, number)
        assert os.path.samestat(os.fstat(ours), os.stat("/"))
        os.close(ours)
