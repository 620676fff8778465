# SPDX-License-Identifier: MIT
"""Why a kernel, a container or a debugger refuses the tracer, in sentences that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os

from detbuild.errors import EngineUnavailable
from detbuild.linux import memory, proc

TRACER = "detbuild-tracer"  # the tracer's name, as ps shows it

_YAMA = "yama/ptrace_scope"
_ACTIONS = "seccomp/actions_avail"


def check_tracer() -> None:
    """Raise EngineUnavailable for what can be seen without trying: architecture, seccomp, Yama, another tracer."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise EngineUnavailable(f"the tracer does not know the architecture {machine}", remedy="build on x86-64")
    if "trace" not in _setting(_ACTIONS, "trace").split():
        raise EngineUnavailable(
            "this kernel's seccomp has no action 'trace'", remedy="use a kernel with CONFIG_SECCOMP_FILTER"
        )
    tracer = int(proc.status("self", "TracerPid") or 0)
    if tracer and not outer_session():
        raise already_traced(tracer)
    scope = yama_scope()
    if scope >= 3 or (scope == 2 and os.geteuid() != 0):
        raise EngineUnavailable(
            f"ptrace is turned off: kernel.yama.ptrace_scope is {scope}",
            remedy="as root, sysctl kernel.yama.ptrace_scope=1"
            + (", after a reboot, since 3 cannot be lowered" if scope >= 3 else ""),
        )


def outer_session() -> int:
    """The pid of the tracer that holds this process in a session already; 0 where none does."""
    tracer = int(proc.status("self", "TracerPid") or 0)
    try:
        return tracer if tracer and proc.status(tracer, "Name") == TRACER else 0
    except OSError:
        return 0


def yama_scope() -> int:
    """kernel.yama.ptrace_scope, 0 where there is no Yama."""
    try:
        return int(_setting(_YAMA, "0"))
    except ValueError:
        return 0


def _setting(name: str, default: str) -> str:
    """What a file below /proc/sys/kernel holds, ``default`` where it cannot be read."""
    try:
        return proc.read("sys", f"kernel/{name}").decode()
    except OSError:
        return default


def already_traced(tracer: int) -> EngineUnavailable:
    name = "a process outside this container"
    with contextlib.suppress(OSError):
        name = f"process {tracer} ({proc.status(tracer, 'Name')})"
    return EngineUnavailable(
        f"this process is already traced by {name}",
        cause="a process has one tracer, and strace, gdb and another session are tracers",
        remedy="run the build without it",
    )


def seize_refused(pid: int, error: OSError) -> EngineUnavailable:
    """What a failed PTRACE_SEIZE of ``pid`` most probably means."""
    tracer = int(proc.status(pid, "TracerPid") or 0)
    if tracer:
        return already_traced(tracer)
    scope = yama_scope()
    cause, remedy = "", "give the container ptrace (docker run --cap-add SYS_PTRACE), or see `detbuild doctor`"
    if error.errno == errno.EPERM and scope >= 2:
        # A container's root passes check_tracer(), and may lack the capability that Yama asks for.
        cause = f"kernel.yama.ptrace_scope is {scope}, and CAP_SYS_PTRACE is missing"
        remedy = "as the host's root, sysctl kernel.yama.ptrace_scope=1, or docker run --cap-add SYS_PTRACE"
    elif error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        cause = "a container's seccomp profile or a security module forbids it"
    return EngineUnavailable(f"the kernel refused ptrace ({os.strerror(error.errno or 0)})", cause=cause, remedy=remedy)


def check_memory(pid: int, place: int, size: int) -> None:
    """Raise EngineUnavailable where this process may not read and write another's memory: ``size`` bytes that it lends.

    What is answered is written there; to find at the first answer that it cannot be is too late.
    """
    try:
        memory.write(pid, place, memory.read(pid, place, size))
    except OSError as error:
        raise call_refused("process_vm_readv or process_vm_writev", error) from error


def call_refused(call: str, error: OSError) -> EngineUnavailable:
    """A system call that an engine cannot do without was refused, and no program was started."""
    return EngineUnavailable(
        f"the kernel refused {call} ({os.strerror(error.errno or 0)})",
        cause="a container's seccomp profile or a security module forbids it",
        remedy="allow it in the container's profile (docker run --cap-add SYS_PTRACE does), or see `detbuild doctor`",
    )


def filter_refused(error: Exception) -> EngineUnavailable:
    return EngineUnavailable(
        f"the kernel refused the session's filter ({error})",
        cause="seccomp is turned off here, or another thread of this process has a filter of its own",
        remedy="allow seccomp(2) in the container's profile, or see `detbuild doctor`",
    )


def layout_refused(error: OSError) -> EngineUnavailable:
    return EngineUnavailable(
        f"the kernel refused a fixed address layout ({os.strerror(error.errno or 0)})",
        cause="a container's seccomp profile forbids personality(2)",
        remedy="allow it there, or leave the rule out: 'strict -layout'",
    )


def outer_filter(answer: int) -> EngineUnavailable:
    """The filter is in place, yet time(2) was answered by somebody else."""
    return EngineUnavailable(
        f"the session's filter is not asked: time(2) returned {answer}",
        cause="an outer seccomp filter answers the clock calls first, or the kernel does not stop for the tracer",
        remedy="run outside that sandbox, or allow time, gettimeofday and clock_gettime in its profile",
    )
