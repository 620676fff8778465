# SPDX-License-Identifier: MIT
"""The eBPF engine: a root daemon's BPF programs fix the clocks, and a supervisor of the user's own does the rest.

What only a session needs is imported when one is opened: most machines have no daemon, and their builds start faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import threading

from detbuild import protocol
from detbuild.engine import apart, detbuildd, refusals
from detbuild.engine.base import Connection, Engine, Terms
from detbuild.engine.clock import SECOND
from detbuild.errors import EngineUnavailable, ProtocolError
from detbuild.linux import auxv, proc, vdso
from detbuild.linux.libc import allow_tracer, libc
from detbuild.linux.seccomp import RET_ALLOW, Assembler
from detbuild.linux.x86_64 import NATIVE
from detbuild.policy import RULES, Policy, added

_WHO = "supervisor"
_CAP_SYS_PTRACE = 19
# Of the rows beyond policy time's that BPF or the supervisor answers.
_KINDS = frozenset({"", "random", "devices", "order", "layout", "identity", "files", "terminal", "process", "told"})
_PROOF = 1_000_000  # nanoseconds that the fixed clock may have moved by when it is proved


class EbpfEngine(Engine):
    """BPF of a daemon that root started, and seccomp notifications in the user's own name."""

    name = "ebpf"

    @classmethod
    def holds(cls, policy: str) -> None:
        asked = Policy.parse(policy)
        missing = [rule for rule in RULES if rule in asked.rules and not _held(rule)]
        if missing:
            raise EngineUnavailable(
                f"the engine ebpf does not hold {', '.join(missing)}, of the policy {policy!r}",
                remedy="use the engine tracer, or auto, which takes it for such a policy",
            )

    @classmethod
    def check(cls) -> None:
        """Asks the daemon, which takes a millisecond, and at the most some seconds. Changes nothing."""
        if refusals.outer_session():
            return
        with detbuildd.connect() as daemon:
            hello = detbuildd.ask(daemon, "hello")
        if hello.get("held"):
            return
        _check_process()

    @classmethod
    def open(cls, terms: Terms) -> Connection:
        outer = refusals.outer_session()
        if outer:
            return Connection(outer, proc.start_time(outer), None)
        cls.holds(terms.policy)
        with detbuildd.connect() as daemon:
            outer = detbuildd.supervisor(detbuildd.ask(daemon, "hello"))
            if outer:
                return Connection(outer, proc.start_time(outer), None)
            _check_process()
            return _open(terms, daemon)


def _held(rule: str) -> bool:
    return all(row.kind in _KINDS for row in added(rule))


def _check_process() -> None:
    """Raise EngineUnavailable for what this process, rather than the machine, makes impossible."""
    if auxv.own(auxv.AT_SECURE):
        raise EngineUnavailable(
            "this process runs a privileged program, which the daemon puts into no session",
            cause="it is set-user-ID, set-group-ID or has capabilities; or a security module changed its domain",
            remedy="open the session from a program that it executes, or use the tracer",
        )
    scope = refusals.yama_scope()
    if scope and not int(proc.status("self", "CapEff"), 16) >> _CAP_SYS_PTRACE & 1:
        raise EngineUnavailable(
            f"a supervisor may not look into its session's programs: kernel.yama.ptrace_scope is {scope}",
            remedy="as root, sysctl kernel.yama.ptrace_scope=0",
        )
    tracer = int(proc.status("self", "TracerPid") or 0)
    if tracer:
        raise refusals.already_traced(tracer)
    if proc.status("self", "Seccomp") == "2" and not _listener_fits():
        raise _second_listener()


def _listener_fits() -> bool:
    """Whether the kernel takes one more listener in this process's chain of filters: tried in a child, which ends."""
    from detbuild.linux import notify

    trial = Assembler()
    trial.ret(RET_ALLOW)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            notify.install(trial.assemble())
            os.write(writer, b"y")
        finally:
            os._exit(0)
    os.close(writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    with os.fdopen(reader, "rb") as answer:
        fits = answer.read() == b"y"
    with contextlib.suppress(ChildProcessError):  # whoever ignores SIGCHLD has nothing to reap
        os.waitpid(child, 0)
    return fits


def _second_listener() -> EngineUnavailable:
    return EngineUnavailable(
        "this process's seccomp filters have a listener already, and the kernel allows one",
        cause="the container's manager (LXD, for instance) answers some calls itself",
        remedy="use the tracer, or run outside that container",
    )


def _open(terms: Terms, daemon: socket.socket) -> Connection:
    from detbuild.engine import supervisor

    peer = supervisor.start(terms)
    try:
        hello, handle = apart.expect(peer, "hello", _WHO)
        connection = Connection(hello["pid"], hello["started"], peer)
        if handle is None:
            raise ProtocolError("the supervisor sent no descriptor of itself")
        with os.fdopen(handle, "rb"), os.fdopen(os.pidfd_open(os.getpid()), "rb") as own:
            ready = detbuildd.ask(
                daemon,
                "open",
                fds=[own.fileno(), handle],
                tid=threading.get_native_id(),
                epoch=terms.epoch,
                policy=terms.policy,
                spare_root=terms.spare_root,
            )
        known = {"session": ready["session"], "token": ready["token"], "socket": os.path.abspath(detbuildd.path())}
        allow_tracer(connection.pid)
        protocol.send(peer, "open", [daemon.fileno()], pid=os.getpid(), tid=threading.get_native_id(), **known)
        apart.expect(peer, "ready", _WHO)
    except BaseException:
        peer.close()
        raise
    try:
        _filter(terms, peer)
    except BaseException:
        with contextlib.suppress(OSError):
            protocol.send(peer, "close")  # or the supervisor takes us for dead, and makes sure
        raise
    return connection


def _filter(terms: Terms, peer: socket.socket) -> None:
    from detbuild.engine import supervisor, world
    from detbuild.linux import notify

    world.begin_layout(terms.policy)
    try:
        if terms.spare_root:
            # Its children may fork and never execute another program.
            vdso.disarm()
        listener = notify.install(supervisor.session_filter(terms.policy))
    except OSError as error:
        raise _second_listener() if error.errno == errno.EBUSY else refusals.filter_refused(error) from error
    except ValueError as error:
        raise refusals.filter_refused(error) from error
    try:
        protocol.send(peer, "listener", [listener])
    finally:
        os.close(listener)
    apart.expect(peer, "ready", _WHO)
    _prove(terms.epoch)


def _prove(epoch: int) -> None:
    """The supervisor answers time(2), and the daemon's BPF clock_gettime(2): each is seen to do so."""
    answer = libc.syscall(ctypes.c_long(NATIVE.numbers["time"]), None)
    if answer != epoch:
        raise refusals.outer_filter(answer)
    read = (ctypes.c_int64 * 2)()
    libc.syscall(ctypes.c_long(NATIVE.numbers["clock_gettime"]), ctypes.c_long(0), ctypes.byref(read))
    if not 0 <= read[0] * SECOND + read[1] - epoch * SECOND < _PROOF:
        raise EngineUnavailable(
            f"the daemon's BPF does not hold this process: clock_gettime(2) returned {read[0]}",
            cause="its programs are not attached, or the session's maps are full",
            remedy="see its log: journalctl -u detbuildd",
        )
