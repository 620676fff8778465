# SPDX-License-Identifier: MIT
"""One set of loaded BPF programs, and the sessions in its maps.

Programs, maps and links live by their pins in a BPF file system: they outlast the daemon, and the next one adopts
them. A set is known by a digest of all that decides what it does, so one set is never loaded twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from detbuild.bpf import layout
from detbuild.daemon import loader, pins
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.daemon.loader import HEADERS, TRACING, source
from detbuild.daemon.peers import numbers
from detbuild.daemon.preemption import preempts, urgent
from detbuild.errors import EngineUnavailable
from detbuild.linux import bpf, proc
from detbuild.linux.btf import VMLINUX

SECOND = 1_000_000_000
_LATEST = (1 << 64) // SECOND - 1  # the last second that fits into 64 bits of nanoseconds

_LIBRARY = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path[:0] = [sys.argv.pop(1)]; from detbuild.daemon.loader import main; main()"
_COMPILES = 300  # seconds that a slow machine may take
_ROUNDS = 100
_TICK = SECOND // os.sysconf("SC_CLK_TCK")

Rows = list[dict[str, Any]]


class Kernel:
    """One set of programs. Every pid is one of the first pid namespace, where the daemon must run."""

    def __init__(self, place: Path) -> None:
        """Adopt a complete set of this ``layout.shape``, by the directory of its pins. Raises OSError."""
        self.name, self._place = place.name, place
        self._maps = {
            name: bpf.Map(bpf.get(str(place / "maps" / name)), *structs) for name, structs in layout.MAPS.items()
        }
        self._programs = [bpf.get(str(path)) for path in sorted((place / "programs").iterdir())]
        self._kprobes = {event.partition("/")[2].encode() for event in pins.kprobes(self.name)}

    @classmethod
    def load(cls, settings: Settings) -> Kernel:
        """The pinned set where it is there, else a new one. Raises EngineUnavailable."""
        top = Path(settings.pins)
        fexit = settings.probes == "fexit" or (settings.probes == "auto" and not preempts())
        generation = _digest(settings, fexit)
        if not VMLINUX.exists():
            raise EngineUnavailable(
                f"this kernel does not describe its types: there is no {VMLINUX}",
                remedy="use a kernel with CONFIG_DEBUG_INFO_BTF, or the tracer",
            )
        with pins.usable(top):
            if not pins.complete(top / generation):
                _build(top, generation, settings, fexit)
            return cls(top / generation)

    # Sessions -----------------------------------------------------------------------------------------------------

    def open(self, session: int, admission: Admission) -> None:
        """Put a process with all of its threads into a new session. Raises EngineUnavailable."""
        opener, tid, supervisor, epoch, spared, observes, devices = admission
        if not 0 <= epoch < _LATEST:
            raise EngineUnavailable(
                f"the eBPF engine cannot show the epoch {epoch}", remedy=f"use one before {_LATEST}, or the tracer"
            )
        with self._urgent():
            self._reap()
            try:
                flags = layout.Flag.SPARED if spared else layout.Flag(0)
                flags |= layout.Flag.OBSERVED if observes else layout.Flag(0)
                level = len(numbers(supervisor)) - 1
                row = layout.Session(epoch * SECOND, 1, self._missed(), supervisor, level, opener, devices=devices)
                self._admit(session, row, flags | layout.Flag.EXEMPT)
                self._admit_threads(session, row, tid)
            except BaseException as error:
                self._drop(session)
                if not isinstance(error, OSError):
                    raise
                raise EngineUnavailable(
                    f"process {opener} could not be put into a session ({error})",
                    cause="it has ended, or the table of processes or of sessions is full",
                    remedy="raise limits: processes, or sessions, in the daemon's configuration",
                ) from error

    def _admit(self, session: int, row: layout.Session, flags: layout.Flag) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        process = layout.Process(born=proc.start_time(row.root), forked=now, session=session, flags=flags)
        self._maps["sessions"].put(ctypes.c_uint32(session), row)
        self._maps["supervisors"].put(ctypes.c_uint32(row.supervisor), ctypes.c_uint32(session))
        self._maps["processes"].put(ctypes.c_uint32(row.root), process)

    def _admit_threads(self, session: int, row: layout.Session, proof: int) -> None:
        opener = row.root
        known: set[int] = set()
        # A thread that is not in the session yet makes threads that are not either.
        for _ in range(_ROUNDS):
            now = {int(name) for name in os.listdir(f"/proc/{opener}/task")}
            if now <= known:
                # One that ended before its row was put would leave it to whoever gets its number.
                for gone in known - now:
                    self._maps["threads"].delete(ctypes.c_uint32(gone))
                return
            for thread in now - known:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    number = _number_at(row.level, opener, thread)
                    clock = layout.Thread(base=row.epoch, session=session, tgid=opener, number=number)
                    clock.proof = thread == proof
                    self._maps["threads"].put(ctypes.c_uint32(thread), clock)
                    self._maps["aliases"].put(layout.Alias(session, number), ctypes.c_uint32(thread))
            known |= now
        raise OSError(f"process {opener} makes threads faster than they can be held")

    def counters(self, session: int) -> tuple[Rows, Rows]:
        """What was read (program_key, source, outcome, count), and gaps (kind, detail, count), so far."""
        with self._urgent():
            reads = [
                {
                    "program_key": key.program,
                    "source": layout.SOURCES[layout.Source(key.source)],
                    "outcome": layout.OUTCOMES[key.outcome],
                    "count": count.value,
                }
                for key, count in self._maps["counts"].where("session", session)
            ]
            row = self._maps["sessions"].get(ctypes.c_uint32(session))
            missed = self._missed() - row.missed if row else 0
        gaps = [
            {"kind": kind, "detail": detail, "count": row.gaps[gap]}
            for gap, (kind, detail) in layout.GAPS.items()
            if row and row.gaps[gap]
        ]
        if missed > 0:
            detail = "the kernel skipped programs on this machine; reads of this session may be among them"
            gaps.append({"kind": "programs skipped", "detail": detail, "count": missed})
        return reads, gaps

    def processes(self, session: int) -> list[int]:
        """The processes of a session that run now."""
        with self._urgent():
            return [pid.value for pid, _ in self._maps["processes"].where("session", session)]

    def held_by(self, pid: int) -> int | None:
        """The session that a process is in."""
        with self._urgent():
            row = self._maps["processes"].get(ctypes.c_uint32(pid))
        return int(row.session) if row and _is_of(row, pid) else None

    def has(self, session: int) -> bool:
        """Whether it was opened here, and has not ended."""
        with self._urgent():
            return self._maps["sessions"].get(ctypes.c_uint32(session)) is not None

    def sessions(self) -> list[int]:
        """The sessions that are not closed."""
        with self._urgent():
            return sorted({number.value for number, _ in self._maps["sessions"].items()} - self._closed())

    def close(self, session: int) -> None:
        """Processes that still run stay in it until they end."""
        with self._urgent():
            self._maps["closed"].put(ctypes.c_uint32(session), ctypes.c_uint32(1))
            self._reap()

    def closed(self) -> list[int]:
        """The sessions that are closed, and in which processes still run."""
        with self._urgent():
            self._reap()
            return sorted(self._closed())

    def drop(self, session: int) -> None:
        """Forget a session that nobody was told of, and let all who are in it go."""
        with self._urgent():
            self._drop(session)

    def holds(self) -> bool:
        """Whether a process is in a session."""
        with self._urgent():
            return not bpf.empty(self._maps["processes"].fd)

    def unload(self) -> bool:
        """Detach and unpin everything, unless a process is still in a session: that stays held, without a daemon."""
        if self.holds():
            return False
        pins.remove(self._place)
        return True

    def leave(self) -> None:
        """Close the descriptors, which would keep a set alive that is unpinned."""
        for fd in (*self._programs, *(each.fd for each in self._maps.values())):
            os.close(fd)

    # The maps -----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Free closed sessions whose last process has ended."""
        closed = self._closed()
        if closed:
            rows = self._maps["processes"].where("session", *closed)
            self._drop(*closed - {row.session for pid, row in rows if _is_of(row, pid.value)})

    def _closed(self) -> set[int]:
        return {number.value for number, _ in self._maps["closed"].items()}

    def _drop(self, *sessions: int) -> None:
        if not sessions:
            return
        for number in map(ctypes.c_uint32, sessions):
            row = self._maps["sessions"].get(number)
            if row:
                supervisor = ctypes.c_uint32(row.supervisor)
                held = self._maps["supervisors"].get(supervisor)
                if held is not None and held.value == number.value:
                    self._maps["supervisors"].delete(supervisor)
        for name in ("counts", "aliases", "threads", "processes"):
            for key, _ in list(self._maps[name].where("session", *sessions)):
                self._maps[name].delete(key)
        for number in map(ctypes.c_uint32, sessions):
            self._maps["sessions"].delete(number)
            self._maps["closed"].delete(number)

    def _missed(self) -> int:
        """Program runs that the kernel has skipped since they were loaded."""
        missed = sum(bpf.recursion_misses(program) for program in self._programs)
        if self._kprobes:
            # Lines of: event, hits, misses. An event has its group's name only in kprobe_events.
            for line in (TRACING / "kprobe_profile").read_bytes().splitlines():
                name, _, misses = line.split()
                missed += int(misses) if name in self._kprobes else 0
        return missed

    def _urgent(self) -> AbstractContextManager[None]:
        return urgent() if self._kprobes else contextlib.nullcontext()


def _digest(settings: Settings, fexit: bool) -> str:
    """Names a set: its source, its constants, its sizes and its kernel."""
    parts = [source(), Path(layout.__file__).read_bytes(), Path(loader.__file__).read_bytes()]
    parts += [path.read_bytes() for path in sorted(HEADERS.rglob("*.h"))]
    kernel = (platform.release(), platform.version())
    parts.append(repr((settings.max_processes, settings.max_sessions, fexit, kernel)).encode())
    return f"{layout.shape()}_{hashlib.blake2b(bytes(1).join(parts), digest_size=8).hexdigest()}"


def _build(top: Path, generation: str, settings: Settings, fexit: bool) -> None:
    """Load a new set, complete or not at all. Raises EngineUnavailable."""
    pins.remove(top / generation)  # of which somebody has removed a part
    place = top / f"{pins.BUILDING}{generation}"
    pins.remove(place)  # a daemon's that was killed at it
    wanted = {
        "place": str(place),
        "generation": generation,
        "sizes": (settings.max_processes, settings.max_sessions),
        "fexit": fexit,
    }
    command = [sys.executable, "-c", _START, str(_LIBRARY), json.dumps(wanted)]
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILES)
    except subprocess.TimeoutExpired:
        pins.remove(place)
        raise EngineUnavailable(
            f"the BPF programs were not compiled in {_COMPILES} seconds",
            cause="the machine is overloaded",
            remedy="start the daemon again, when there is less to do",
        ) from None
    if result.returncode:
        pins.remove(place)
        with contextlib.suppress(ValueError, IndexError):
            said = json.loads(result.stdout.splitlines()[-1])
            errors = [line for line in result.stderr.splitlines() if "error:" in line]
            raise EngineUnavailable(said["refused"], cause=said["cause"] or " / ".join(errors), remedy=said["remedy"])
        raise EngineUnavailable(
            "the BPF programs could not be loaded", cause=result.stderr[-500:], remedy="this is worth a report"
        )
    place.rename(top / generation)


def _number_at(level: int, pid: int, tid: int) -> int:
    """A thread's number in a pid namespace that it sees so far down. Raises OSError, EngineUnavailable."""
    known = numbers(f"{pid}/task/{tid}")
    if level >= len(known):
        raise EngineUnavailable(
            f"process {pid} has no number in the pid namespace of its supervisor",
            cause="the supervisor lives in a namespace of its own",
            remedy="let it start in the process's own namespace",
        )
    return known[level]


def _is_of(row: layout.Process, pid: int) -> bool:
    """Whether a row is of the process that has the number now, rather than of one that had it before."""
    try:
        return bool(proc.start_time(pid) * _TICK <= row.forked)
    except OSError:
        return False
