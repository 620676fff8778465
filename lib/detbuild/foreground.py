# SPDX-License-Identifier: MIT
"""One command in a session in the foreground, by a parent as good as invisible: ``detbuild run``."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket

from detbuild.audit import Audit
from detbuild.client import collect, launched
from detbuild.engine.base import Terms
from detbuild.launch import become, occupy_standard_descriptors

_SI_KERNEL = 0x80  # sent by the kernel itself, as a terminal's Ctrl-C: the whole foreground group has it already

# A terminal that goes away tells its session's leader alone.
_LEADERS = {signal.SIGHUP, signal.SIGCONT}

# Signals that cannot be caught, or that speak of this process alone.
_OWN = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
}


class Foreground:
    """Runs one command as this process's child, in its process group and on its terminal.

    ``run`` returns the wait status and the record. Raises SessionError, EngineDied, and OSError where the
    command could not be executed.
    """

    def __init__(self, terms: Terms, engine: str) -> None:
        self._terms, self._engine = terms, engine

    def run(self, command: list[str]) -> tuple[int, Audit]:
        occupy_standard_descriptors()
        handled = signal.valid_signals() - _OWN
        inherited = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, handled)}
        child_signal = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            self._child(command, theirs, inherited, child_signal)
        theirs.close()
        try:
            with ours:
                connection = launched(ours)
        except BaseException:
            os.waitpid(child, 0)
            raise
        _let_go(connection.peer.fileno() if connection.peer else 2)
        status = _wait(child, handled)
        return status, collect(connection)

    def _child(self, command: list[str], peer: socket.socket, mask: set[int], child_signal: object) -> None:
        try:
            if child_signal == signal.SIG_IGN:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            become(self._terms, self._engine, peer, command[0], command, shell=True)
        finally:
            os._exit(125)


def _let_go(keep: int) -> None:
    """Hold none of the command's descriptors but stderr: who reads its output waits for the end of them all."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def _wait(child: int, handled: set[signal.Signals]) -> int:
    """The child's wait status. Until then pass on what is sent to us, and stop when it stops."""
    leader = os.getsid(0) == os.getpid()
    while True:
        info = signal.sigwaitinfo(handled)
        if info.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if not pid:
                continue
            if not os.WIFSTOPPED(status):
                return status
            os.kill(os.getpid(), signal.SIGSTOP)
        elif info.si_code != _SI_KERNEL or (leader and info.si_signo in _LEADERS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, info.si_signo)


def end_as(status: int) -> int:
    """The exit code for a wait status; where a signal ended the child, end this process by the same one."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.Signals(-code)})
        os.kill(os.getpid(), -code)
    return code if code >= 0 else 128 - code
