# SPDX-License-Identifier: MIT
"""Compile, load, attach and pin the BPF programs: in a process of its own, since the compiler takes much memory.

``python3 -c ... SETTINGS`` pins a complete set below one directory, or says on its output, as JSON, why it cannot.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from detbuild.bpf import layout
from detbuild.daemon import machine
from detbuild.engine import clock, runs, stream
from detbuild.errors import EngineUnavailable
from detbuild.linux import bpf
from detbuild.linux.btf import Btf
from detbuild.linux.libc import libc, oserror

_BPF = Path(__file__).resolve().parent.parent / "bpf"
_PARTS = ("common.h", "clock.bpf.c", "times.bpf.c", "sleep.bpf.c", "tree.bpf.c", "device.bpf.c", "bell.bpf.c")
HEADERS = Path(__file__).resolve().parent / "headers"
TRACING = Path("/sys/kernel/tracing")

_OFFSETS = {
    "TASK_PID": ("task_struct", "pid"),
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_THREAD_PID": ("task_struct", "thread_pid"),
    "TASK_SIGNAL": ("task_struct", "signal"),
    "SIGNAL_LIVE": ("signal_struct", "live"),
    "PID_LEVEL": ("pid", "level"),
    "PID_NUMBERS": ("pid", "numbers"),
    "BINPRM_ARGC": ("linux_binprm", "argc"),
    "BINPRM_ENVC": ("linux_binprm", "envc"),
}
_COUNTS, _RUNS = 131072, 131072
# Sessions that may each count what they like, before the rows are full: two sources of all that engine/readers.py
# tells apart by more than the program.
_SHARES = 8
_IA32 = "__ia32_compat_sys_gettimeofday"
# How many calls forbid probes on a CPU now; named in kernel/bpf/syscall.c.
_ACTIVE = "bpf_prog_active"
# Callers that a return probe can follow at once. Whoever waits in poll(2) takes one, in a session or not.
_WAITING, _PASSING = 4096, 1024
# The map of the programs that call themselves, and those, as device.bpf.c numbers them.
_AGAIN, _CALLING = "again", ("urandom_read_iter", "random_read_iter")
_PERF_EVENT_OPEN = 298
_PERF_TYPE_TRACEPOINT = 2


def source() -> bytes:
    """All parts as one, which the compiler's messages still tell apart."""
    return b"".join(b'#line 1 "%s"\n%s' % (name.encode(), (_BPF / name).read_bytes()) for name in _PARTS)


def defines(btf: Btf, sizes: tuple[int, int], fexit: bool) -> list[str]:
    """The compiler's -D arguments for this kernel; ``sizes`` are the most processes and sessions."""
    values: dict[str, int] = layout.defines(clock.PATIENCE, runs.RUNS, stream.DEVICE)
    values |= {name: btf.offset(*place) for name, place in _OFFSETS.items()}
    values |= {"SIZE_UPID": btf.size("upid"), "MAX_PROCESSES": sizes[0], "MAX_SESSIONS": sizes[1]}
    values["SESSION_PROCESSES"] = sizes[0] // 2
    values |= {"MAX_COUNTS": _COUNTS, "SESSION_COUNTS": max(_COUNTS // _SHARES, 1), "MAX_RUNS": _RUNS}
    if fexit:
        values["USE_FEXIT"] = 1
    elif btf.variable(_ACTIVE):
        values["WITH_ACTIVE"] = 1
    if btf.function(_IA32):
        values["WITH_IA32"] = 1
    return [f"-D{name}={value}" for name, value in values.items()]


def compiled(btf: Btf, sizes: tuple[int, int], fexit: bool) -> int:
    """A BCC module with its maps, for this kernel; nothing is loaded. Raises BCC's own exceptions."""
    os.environ["BCC_KERNEL_SOURCE"] = str(HEADERS)
    from bcc import BPF

    return int(BPF(text=source(), cflags=defines(btf, sizes, fexit)).module)


def group(generation: str) -> str:
    """The tracefs group of a set's kprobes."""
    return f"detbuild_{generation}"


class Loader:
    """Loads one set below ``place``, a directory in a BPF file system."""

    def __init__(self, place: Path, generation: str, sizes: tuple[int, int], fexit: bool) -> None:
        self._place, self._generation, self._sizes, self._fexit = place, generation, sizes, fexit
        self._btf = Btf.of_kernel()

    def run(self) -> None:
        """Raises OSError; FileNotFoundError, or Btf's KeyError, where the kernel lacks something; BCC's exceptions."""
        from bcc.libbcc import lib

        module = compiled(self._btf, self._sizes, self._fexit)
        for kind in ("maps", "programs", "links"):
            (self._place / kind).mkdir(parents=True, mode=0o700)
        for name in layout.MAPS:
            fd = lib.bpf_table_fd(module, name.encode())
            bpf.pin(fd, str(self._place / "maps" / name))
        self._again = lib.bpf_table_fd(module, _AGAIN.encode())
        bpf.pin(self._again, str(self._place / "maps" / _AGAIN))  # a table of programs is emptied with its last name
        license_ = ctypes.string_at(lib.bpf_module_license(module))
        names = [lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))]
        active = self._btf.variable(_ACTIVE)
        # Who makes sessions' processes known comes first, then who serves them.
        for name in sorted(names, key=lambda name: not name.startswith(b"event__")):
            code = ctypes.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name))
            self._attach(name.decode(), bpf.refer(code, layout.ACTIVE, active), license_)

    def _attach(self, name: str, code: bytes, license_: bytes) -> None:
        how, _, target = name.partition("__")
        short = target.replace("__x64_sys_", "").replace("__ia32_", "32")
        attach: Callable[[int], int]
        if how == "event":
            program = bpf.load(short, bpf.RAW_TRACEPOINT, code, license_)
            attach = lambda fd: bpf.open_tracepoint(fd, target)  # noqa: E731
        elif self._fexit:
            # A call without arguments is one function with three names, of which BTF keeps one.
            function = self._btf.function(target) or self._btf.function(target.replace("__x64_sys_", "__do_sys_"))
            if not function:
                raise FileNotFoundError(f"there is no function {target}")
            kind = bpf.TRACE_FEXIT if how == "exit" else bpf.TRACE_FENTRY
            program = bpf.load(short, bpf.TRACING, code, license_, attach=kind, function=function)
            attach = bpf.open_tracepoint
        else:
            program = bpf.load(short, bpf.KPROBE, code, license_)
            attach = lambda fd: bpf.link_perf(fd, self._kprobe(how, target))  # noqa: E731
        if target in _CALLING:
            bpf.Map(self._again, ctypes.c_uint32, ctypes.c_uint32).put(
                ctypes.c_uint32(_CALLING.index(target)), ctypes.c_uint32(program)
            )
        bpf.pin(program, str(self._place / "programs" / name))
        bpf.pin(attach(program), str(self._place / "links" / name))

    def _kprobe(self, how: str, target: str) -> int:
        """A perf event of a new kprobe. By tracefs: only there a return probe's number of callers can be given."""
        waits = any(word in target for word in ("sleep", "select", "poll", "restart"))
        kind = f"r{_WAITING if waits else _PASSING}" if how == "exit" else "p"
        name = f"{group(self._generation)}/{how}_{target}"
        change_kprobes(f"{kind}:{name} {target}")
        number = int((TRACING / "events" / name / "id").read_text())
        # struct perf_event_attr: type, size, config, sample_period=1, ..., wakeup_events=1
        attributes = struct.pack("=IIQQQQQI", _PERF_TYPE_TRACEPOINT, 64, number, 1, 0, 0, 0, 1).ljust(64, b"\0")
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        words = [ctypes.c_long(word) for word in (-1, 0, -1, 8)]
        fd = libc.syscall(ctypes.c_long(_PERF_EVENT_OPEN), ctypes.byref(buffer), *words)
        if fd < 0:
            raise oserror("perf_event_open")
        return int(fd)


def change_kprobes(line: str) -> None:
    """Add or remove a probe (kprobetrace.rst). Raises OSError."""
    # Python's own append mode seeks, which tracefs refuses.
    fd = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def main() -> None:
    wanted = json.loads(sys.argv[1])
    try:
        Loader(Path(wanted["place"]), wanted["generation"], tuple(wanted["sizes"]), wanted["fexit"]).run()
    except ImportError as error:
        refused = EngineUnavailable(
            f"the BPF compiler is missing ({error})",
            remedy="apt-get install python3-bpfcc, and run with /usr/bin/python3",
        )
    except (FileNotFoundError, KeyError) as error:
        refused = EngineUnavailable(
            f"this kernel lacks what the BPF programs need ({error})",
            remedy="use a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS, 5.15 or newer",
        )
    except OSError as error:
        refused = refusal(error)
    except Exception as error:  # BCC raises nothing more special
        refused = EngineUnavailable(f"the BPF programs could not be compiled: {error}", remedy="this is worth a report")
    else:
        return
    print(json.dumps({"refused": refused.refused, "cause": refused.cause, "remedy": refused.remedy}))
    sys.exit(1)


def refusal(error: OSError) -> EngineUnavailable:
    """What the kernel's refusal most probably means."""
    mode = machine.lockdown()
    if error.errno == errno.EPERM and mode != "none":
        return EngineUnavailable(
            f"this kernel is locked down ({mode}): no BPF program may write to a program's memory",
            remedy="turn Secure Boot off, or use the tracer",
        )
    if error.errno in (errno.EPERM, errno.EACCES) and "the program" not in str(error):
        return EngineUnavailable(
            f"the kernel refused BPF ({error.strerror})",
            cause="it wants CAP_SYS_ADMIN, outside any container",
            remedy="run the daemon as root of the machine itself",
        )
    return EngineUnavailable(f"the kernel refused the BPF programs ({error.strerror})", remedy="this is worth a report")
