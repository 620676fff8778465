# SPDX-License-Identifier: MIT
"""Who asks, and for whom: identities that the kernel vouches for. A number in a message counts for nothing.

Processes are named by pidfds that came over the socket. What number such a process has here is read from
/proc/self/fdinfo, and so does not depend on the pid or user namespace of who sent it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from detbuild.errors import SessionError
from detbuild.linux import auxv, proc

SO_PEERPIDFD = 77  # since Linux 6.5
_GONE = (errno.ESRCH, errno.EINVAL, errno.ENODATA)  # what that says of a peer that has ended, by the kernel's release
_PF_KTHREAD = 0x00200000
_PIDFDS = ("anon_inode:[pidfd]", "pidfd:[")  # no file's name begins so: those begin with /
_PATIENCE = 0.5  # seconds
_OWN = "a peer may put itself and its own descendants into a session"


@dataclass(frozen=True)
class Process:
    """A process by its pidfd, with its number and start time (clock ticks since boot) in the daemon's namespace.

    ``vector`` is an opener's auxiliary vector, which each execution changes; empty for others.
    """

    handle: int
    pid: int
    started: int
    vector: bytes = b""

    def alive(self) -> bool:
        """Whether it has not ended; as a zombie it has."""
        poll = select.poll()  # select(2) knows no descriptor above 1023
        poll.register(self.handle, select.POLLIN)
        return not poll.poll(0)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.handle)


@dataclass(frozen=True)
class Peer:
    """The process that connected. ``process`` is None where it had ended, or changed its user, by then."""

    uid: int
    gid: int
    process: Process | None

    def close(self) -> None:
        if self.process:
            self.process.close()


def of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket. Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("iII", credentials)
    handle = _peer_handle(connection, pid)
    if handle is None:
        return Peer(uid, gid, None)
    with contextlib.suppress(OSError, SessionError):
        process = _process(handle)
        # Without SO_PEERPIDFD the number may have been given to somebody else since.
        if _uids(process.pid) == {uid}:
            return Peer(uid, gid, process)
    os.close(handle)
    return Peer(uid, gid, None)


def _peer_handle(connection: socket.socket, pid: int) -> int | None:
    """A pidfd of the peer, None where it has ended. Old kernels know it by a number, which may be another's by now."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno in _GONE:
            return None
        if error.errno != errno.ENOPROTOOPT:
            raise
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(pid) if pid > 0 else None
    return None


def opener(peer: Peer, handle: int) -> Process:
    """The process that a peer wants to put into a session, if it may. Raises SessionError with the reason."""
    process = of_user(peer, handle)
    if peer.process is None or not peer.process.alive():
        raise SessionError(
            "the process that connected has ended", remedy="connect from the process that opens the session"
        )
    if process.pid != peer.process.pid:
        if not descends(process.pid, peer.process.pid):
            raise SessionError(f"process {process.pid} is no descendant of process {peer.process.pid}", cause=_OWN)
        if _gained(process.pid, peer.process.pid):
            raise SessionError(f"process {process.pid} has capabilities that its peer has not", cause=_OWN)
    vector = _vector(process.pid, peer.uid)
    if not process.alive():
        raise _ended()
    return replace(process, vector=vector)


def check_again(peer: Peer, process: Process, supervisor: Process) -> None:
    """Raise SessionError where what ``opener`` and ``of_user`` found of two processes is not so any more."""
    of_user(peer, supervisor.handle)
    if opener(peer, process.handle) != process:
        raise _executed(process.pid)


def of_user(peer: Peer, handle: int) -> Process:
    """The process behind a pidfd that a peer sent, if it is the peer's user's own. Raises SessionError."""
    process = _process(handle)
    if process.pid == 1:
        raise SessionError("process 1 is never in a session", cause=_OWN)
    try:
        if _flags(process.pid) & _PF_KTHREAD:
            raise SessionError(f"process {process.pid} is a kernel thread", cause=_OWN)
        uids = _uids(process.pid)
    except OSError as error:
        raise _ended() from error
    if uids != {peer.uid}:
        others = ", ".join(str(uid) for uid in sorted(uids - {peer.uid}))
        raise SessionError(f"process {process.pid} is not user {peer.uid}'s own, but of user {others}", cause=_OWN)
    if not process.alive():  # so all that was read above was read of that very process
        raise _ended()
    return process


def thread(process: Process, tid: int) -> int:
    """The thread of a process that calls itself ``tid`` in its own namespace, as it is numbered here.

    Raises SessionError where the process has no such thread.
    """
    with contextlib.suppress(OSError):
        for candidate in proc.threads(process.pid):
            with contextlib.suppress(OSError):
                if numbers(f"{process.pid}/task/{candidate}")[-1:] == [tid]:
                    return candidate
    raise SessionError(f"process {process.pid} has no thread {tid}")


def numbers(pid: int | str) -> list[int]:
    """A process's numbers, from the namespace of this /proc to the process's own. Raises OSError."""
    return [int(number) for number in proc.status(pid, "NSpid").split()]


def here(pid: int) -> Process | None:
    """The process that has a number in the daemon's own namespace now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        return Process(handle, pid, proc.start_time(pid))
    except (OSError, ValueError):
        os.close(handle)
        return None


def same(pid: int, started: int) -> Process | None:
    """The process that had that number and start time, if it still lives."""
    process = here(pid)
    if process and (process.started != started or not process.alive()):
        process.close()
        return None
    return process


def as_seen_by(asker: int, pid: int) -> int:
    """The number of a process in the pid namespace of another one; 0 where the two namespaces differ."""
    try:
        namespaces = {os.readlink(f"/proc/{each}/ns/pid") for each in (asker, pid)}
        return numbers(pid)[-1] if len(namespaces) == 1 else 0
    except (OSError, IndexError):
        return 0


def _process(handle: int) -> Process:
    pid = _number(handle)
    try:
        if int(proc.status(pid, "Tgid")) != pid:
            raise SessionError(f"a pidfd names thread {pid}, not a process", remedy="send what pidfd_open(2) returns")
        return Process(handle, pid, proc.start_time(pid))
    except (OSError, ValueError) as error:
        raise _ended() from error


def _vector(pid: int, uid: int) -> bytes:
    """Of a program that is not privileged. Whoever runs now may have been executed after it connected.

    An execution under way has not written AT_SECURE yet: it ends before ``check_again``, which sees that, or after BPF
    holds the process.
    """
    try:
        vector = _read_vector(pid, uid)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise _ended() from error
    except TimeoutError as error:
        raise _executed(pid) from error
    except OSError as error:
        raise SessionError(
            f"the auxiliary vector of process {pid} cannot be read ({error.strerror})",
            cause="the daemon was started without CAP_DAC_READ_SEARCH, or a security module forbids it",
            remedy="give the daemon what its unit in recipes-devtools gives it",
        ) from error
    if not vector:  # its memory is gone
        raise _ended()
    if auxv.value(vector, auxv.AT_SECURE):
        raise SessionError(
            f"process {pid} runs a privileged program, which believes no time that a user chose",
            cause="it is set-user-ID, set-group-ID or has capabilities; or a security module changed its domain",
            remedy="open the session from a program that it executes",
        )
    return vector


def _read_vector(pid: int, uid: int) -> bytes:
    """Raises OSError; TimeoutError where an execution does not end.

    The kernel lets a reader wait while an execution closes descriptors, which a file system of the user's own may draw
    out (mm_access, begin_new_exec). One read of a user's waits at a time.
    """
    name = f"vector of user {uid}"
    answers: list[bytes | OSError] = []

    def work() -> None:
        try:
            answers.append(proc.read(pid, "auxv"))
        except OSError as error:
            answers.append(error)

    if all(each.name != name for each in threading.enumerate()):
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        thread.join(_PATIENCE)
    answer = answers[0] if answers else TimeoutError()
    if isinstance(answer, OSError):
        raise answer
    return answer


def is_pidfd(fd: int) -> bool:
    """By its name, which asks no file system: one of a peer's own may be the file's, and let us wait."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}").startswith(_PIDFDS)
    return False


def _number(handle: int) -> int:
    """The process behind a pidfd, -1 where it is gone, 0 where this namespace does not hold it (proc_pid_fdinfo(5))."""
    if not is_pidfd(handle):
        raise SessionError("a descriptor beside the message is no pidfd", remedy="send what pidfd_open(2) returns")
    info = Path(f"/proc/self/fdinfo/{handle}").read_bytes().splitlines()
    pids = [int(line[4:]) for line in info if line.startswith(b"Pid:")] or [-1]
    if pids[0] < 0:
        raise _ended()
    if pids[0] == 0:
        raise SessionError(
            "the daemon does not see that process", remedy="run the daemon in the machine's own pid namespace"
        )
    return pids[0]


def _ended() -> SessionError:
    return SessionError("the process has ended", cause="its number may be another process's by now")


def _executed(pid: int) -> SessionError:
    return SessionError(f"process {pid} executed a program while it was put into a session", cause=_OWN)


def _uids(pid: int) -> set[int]:
    """Real, effective, saved and file system user: all four, or a set-user-ID program would pass for its caller."""
    return {int(uid) for uid in proc.status(pid, "Uid").split()}


def _flags(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[6])


def descends(pid: int, ancestor: int) -> bool:
    """Whether it is a child, grandchild, and so on of another: who lost its parent is not."""
    try:
        while pid > 1:
            pid = int(proc.status(pid, "PPid") or 0)
            if pid == ancestor:
                return True
    except OSError:
        pass
    return False


def _gained(pid: int, peer: int) -> bool:
    """Whether a descendant is more privileged than the peer, as after the execution of a file with capabilities.

    In a user namespace of its own it may be whatever it likes.
    """
    try:
        if os.readlink(f"/proc/{pid}/ns/user") != os.readlink(f"/proc/{peer}/ns/user"):
            return False
        theirs, own = (int(proc.status(each, "CapPrm"), 16) for each in (pid, peer))
    except OSError:
        return True
    return bool(theirs & ~own)
