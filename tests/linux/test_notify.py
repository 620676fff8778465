"""seccomp user notification as the kernel does it."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conftest import LIBRARY
from detbuild.linux import notify, proc, seccomp
from detbuild.linux.notify import Listener, Notification
from detbuild.linux.seccomp import NR, RET_ALLOW, RET_USER_NOTIF, Assembler
from detbuild.linux.x86_64 import NATIVE

GETPPID = NATIVE.numbers["getppid"]
PARENT = os.getpid()

libc = ctypes.CDLL(None, use_errno=True)


def only(number: int) -> bytes:
    code = Assembler()
    code.load(NR)
    code.jump_equal(number, "it")
    code.ret(RET_ALLOW)
    code.label("it")
    code.ret(RET_USER_NOTIF)
    return code.assemble()


def getppid() -> int:
    return int(libc.syscall(ctypes.c_long(GETPPID), *map(ctypes.c_long, (1, 2, 3, 4, 5, -6))))


@contextmanager
def caller(calls: Callable[[], int]) -> Iterator[tuple[Listener, int, Callable[[], int]]]:
    """A child in which getppid(2) is notified of; its listener, its pid, and its exit code, once it ended."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        socket.send_fds(theirs, [b"x"], [notify.install(only(GETPPID))])
        os._exit(calls())
    theirs.close()
    _, fds, *_ = socket.recv_fds(ours, 1, 1)
    listener = Listener(fds[0])
    ended: list[int] = []

    def end() -> int:
        if not ended:
            ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return ended[0]

    try:
        yield listener, pid, end
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            end()
        listener.close()
        ours.close()


def received(listener: Listener) -> Notification:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll(10_000) == [(listener.fd, select.POLLIN)]
    call = listener.receive()
    assert call
    return call


def test_a_notification_tells_the_call_and_its_arguments() -> None:
    with caller(lambda: getppid() == 42) as (listener, pid, end):
        call = received(listener)
        assert (call.tid, call.number, call.arch) == (pid, GETPPID, NATIVE.audit)
        assert call.arguments == (1, 2, 3, 4, 5, -6 & (1 << 64) - 1)
        assert listener.valid(call.ident)
        assert listener.answer(call.ident, 42)
        assert not listener.valid(call.ident)
        assert end() == 1


def test_a_negative_answer_is_an_error() -> None:
    with caller(lambda: getppid() == -1 and ctypes.get_errno() == errno.EXDEV) as (listener, _, end):
        assert listener.answer(received(listener).ident, -errno.EXDEV)
        assert end() == 1


def test_a_large_answer_is_no_error() -> None:
    with caller(lambda: getppid() == -5000) as (listener, _, end):
        assert listener.answer(received(listener).ident, -5000)
        assert end() == 1


def test_a_call_that_proceeds_is_made_by_the_kernel() -> None:
    with caller(lambda: getppid() == PARENT) as (listener, _, end):
        assert listener.proceed(received(listener).ident)
        assert end() == 1


def test_a_caller_that_is_killed_is_not_answered() -> None:
    with caller(getppid) as (listener, pid, end):
        call = received(listener)
        os.kill(pid, signal.SIGKILL)
        assert end() == -signal.SIGKILL
        assert not listener.valid(call.ident)
        assert not listener.answer(call.ident, 1)
        assert not listener.proceed(call.ident)


def test_the_end_of_the_last_program_hangs_up() -> None:
    with caller(lambda: 0) as (listener, _, end):
        end()
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll(10_000) == [(listener.fd, select.POLLHUP)]


def test_only_a_kill_takes_a_received_caller_away() -> None:
    def interrupted() -> int:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        return getppid() == 7

    if not flag_known(notify.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV):
        pytest.skip("this kernel has no WAIT_KILLABLE_RECV")
    with caller(interrupted) as (listener, _, end):
        call = received(listener)
        select.select([], [], [], 0.3)
        assert listener.answer(call.ident, 7)
        assert end() == 1


def flag_known(flag: int) -> bool:
    """Whether the kernel knows a flag: it looks at the flags before the filter, which is none here."""
    number = NATIVE.numbers["seccomp"]
    libc.syscall(*map(ctypes.c_long, (number, 1, flag | seccomp.SECCOMP_FILTER_FLAG_NEW_LISTENER, 0)))
    return ctypes.get_errno() == errno.EFAULT


def test_a_second_listener_is_refused() -> None:
    def second() -> int:
        try:
            notify.install(only(GETPPID))
        except OSError as error:
            return error.errno == errno.EBUSY
        return 0

    with caller(second) as (_, _, end):
        assert end() == 1


def test_the_kernel_tells_the_sizes_of_its_structs() -> None:
    received, sent = notify.sizes()
    assert received >= 80
    assert sent >= 24


def test_every_thread_is_filtered_and_the_listener_closes_at_exec() -> None:
    script = f"""
import ctypes, os, select, sys, threading; sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import notify
from detbuild.linux.seccomp import NR, RET_ALLOW, RET_USER_NOTIF, Assembler
libc, go, seen = ctypes.CDLL(None), threading.Event(), []
def work():
    go.wait()
    seen.append(libc.syscall(110))
thread = threading.Thread(target=work)
thread.start()
code = Assembler()
code.load(NR)
code.jump_equal(110, "it")
code.ret(RET_ALLOW)
code.label("it")
code.ret(RET_USER_NOTIF)
listener = notify.Listener(notify.install(code.assemble()))
go.set()
call = listener.receive()
listener.answer(call.ident, 77)
thread.join()
print(seen, call.tid == thread.native_id, os.get_inheritable(listener.fd))
"""
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120).stdout
    assert out == b"[77] True False\n"


def test_root_needs_no_no_new_privs() -> None:
    if os.geteuid():
        pytest.skip("an ordinary user needs no_new_privs")
    with caller(lambda: int(proc.status("self", "NoNewPrivs"))) as (_, _, end):
        assert end() == 0


@pytest.mark.parametrize("close_on_exec", [False, True])
def test_a_call_returns_a_descriptor_of_ours(close_on_exec: bool) -> None:
    def calls() -> int:
        fd = getppid()
        return 5 if os.read(fd, 9) == b"ours" and os.get_inheritable(fd) != close_on_exec else 1

    reader, writer = os.pipe()
    with caller(calls) as (listener, _, end):
        call = received(listener)
        os.write(writer, b"ours")
        assert listener.give(call.ident, reader, close_on_exec)
        assert end() == 5
        assert not listener.give(call.ident, reader)
    os.close(reader)
    os.close(writer)


def test_a_caller_without_room_for_a_descriptor_waits_on() -> None:
    def calls() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        return getppid()

    with caller(calls) as (listener, _, end):
        call = received(listener)
        with pytest.raises(OSError, match="Too many open files"):
            listener.give(call.ident, listener.fd)
        assert listener.answer(call.ident, 7)
        assert end() == 7
