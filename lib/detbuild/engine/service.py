# SPDX-License-Identifier: MIT
"""The tracer as a process of its own: how it is started beside the process that opens a session, and spoken to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading

from detbuild import policy, protocol
from detbuild.engine import apart, detbuildd, refusals, world
from detbuild.engine.base import Connection, Engine, Terms
from detbuild.engine.filter import everybody
from detbuild.engine.tracer import Tracer
from detbuild.errors import EngineUnavailable, ProtocolError
from detbuild.linux import proc, seccomp, vdso
from detbuild.linux.dynamic_linker import Linker
from detbuild.linux.libc import allow_tracer, libc
from detbuild.linux.x86_64 import NATIVE

_WORD = 8  # bytes
_WHO = "tracer"


class TracerEngine(Engine):
    """ptrace and seccomp, in the user's own name."""

    name = "tracer"

    @classmethod
    def check(cls) -> None:
        refusals.check_tracer()

    @classmethod
    def open(cls, terms: Terms) -> Connection:
        outer = refusals.outer_session() or detbuildd.outer_session()
        if outer:
            return Connection(outer, proc.start_time(outer), None)
        ours = apart.start(refusals.TRACER, lambda peer: _serve(terms, peer))
        hello, _ = apart.expect(ours, "hello", _WHO)
        connection = Connection(hello["pid"], hello["started"], ours)
        allow_tracer(connection.pid)
        place = ctypes.create_string_buffer(_WORD)
        protocol.send(ours, "open", pid=os.getpid(), tid=threading.get_native_id(), place=ctypes.addressof(place))
        linker = apart.expect(ours, "ready", _WHO)[0]["linker"]
        try:
            _filter(terms, Linker(*linker) if linker else None)
        except EngineUnavailable:
            protocol.send(ours, "close")  # or the tracer takes us for dead, and makes sure
            raise
        return connection


def _filter(terms: Terms, linker: Linker | None) -> None:
    world.begin_layout(terms.policy)
    try:
        if terms.spare_root:
            # Its children may fork and never execute another program.
            vdso.disarm()
        seccomp.install(everybody(policy.rules(terms.policy), linker))
    except (OSError, ValueError) as error:
        raise refusals.filter_refused(error) from error
    answer = libc.syscall(ctypes.c_long(NATIVE.numbers["time"]), None)
    if answer != terms.epoch:
        raise refusals.outer_filter(answer)


def _serve(terms: Terms, peer: socket.socket) -> None:
    protocol.send(peer, "hello", pid=os.getpid(), started=proc.start_time("self"))
    message = protocol.receive(peer)
    if message is None:
        return
    root = int(message["pid"])
    # Ignored as it is by default, it would be lost for the one who waits for it beside other things.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    tracer = Tracer(terms)
    try:
        handle = _adopt(tracer, root, int(message["tid"]), int(message["place"]))
    except EngineUnavailable as refusal:
        protocol.send(peer, "error", refused=refusal.refused, cause=refusal.cause, remedy=refusal.remedy)
        return
    protocol.send(peer, "ready", linker=tracer.extras.linker)
    answering = threading.Thread(target=_answer, args=(tracer, peer, handle), daemon=True)
    answering.start()
    tracer.serve()
    answering.join()  # the client may ask for the record after the last of its programs has ended


def _adopt(tracer: Tracer, root: int, tid: int, place: int) -> int:
    """Seize the process that opens the session; its pidfd. ``place`` is an address of _WORD bytes that it lends.

    Raises EngineUnavailable.
    """
    try:
        handle = os.pidfd_open(root)
    except OSError as error:
        raise refusals.call_refused("pidfd_open", error) from error
    refusals.check_memory(root, place, _WORD)
    try:
        tracer.adopt(root, tid)
    except OSError as error:
        raise refusals.seize_refused(root, error) from error
    return handle


def _answer(tracer: Tracer, peer: socket.socket, root: int) -> None:
    """Beside the loop: give the record when the client closes, and end the root when the client dies unclosed.

    ``root`` is a pidfd.
    """
    try:
        while (message := protocol.receive(peer)) is not None:
            if message["kind"] == "close":
                tracer.audit.survivors = tracer.running()
                protocol.send(peer, "closed", audit=tracer.audit.to_dict())
                return
    except (OSError, ProtocolError):
        pass
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(root, signal.SIGKILL)
