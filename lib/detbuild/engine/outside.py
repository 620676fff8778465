# SPDX-License-Identifier: MIT
"""Outside files: which row of the table a program's name for a file has, and what it is given to read."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detbuild import surroundings
from detbuild.engine.identity import CPUS, DOMAIN, NODE, PROCESSES, RELEASE, UPTIME, VERSION
from detbuild.engine.namespace import Directory
from detbuild.engine.stream import Stream
from detbuild.linux import proc
from detbuild.outside import DEVICES
from detbuild.policy import FileRule

USER = surroundings.USER.encode()
MACHINE_ID = "8f2d1c6b7e0a4d539c41d7a6b05e3f92"  # a random number, once
HOST_ID = struct.pack("=I", 0x007F0100)  # 127.0.0.1, with its halves exchanged (glibc's gethostid.c)

_LISTS = re.compile(r"\*|PID")
_NUMBERED = re.compile(r"/proc/(\d+)/")
_UNTIDY = re.compile(rb"//|/\.")
_KERNELS = ("/proc/", "/sys/", "/dev/")  # the same whatever the root


class Found(NamedTuple):
    """A file of the table. ``source`` is its name for the record, without the numbers of processes."""

    rule: FileRule
    source: str


class Outside:
    """The rows of one policy. Names are taken as they are given: a program's own link to such a file is not seen."""

    def __init__(self, rules: Sequence[FileRule]) -> None:
        self._exact: dict[str, FileRule] = {}
        self._patterns: list[tuple[re.Pattern[str], FileRule]] = []
        for rule in rules:
            if _LISTS.search(rule.path):
                self._patterns.append((_pattern(rule.path), rule))
            else:
                self._exact[rule.path] = rule
        self._tops = tuple({_LISTS.split(rule.path)[0].encode() for _, rule in self._patterns})
        self._ends = frozenset(os.fsencode(posixpath.basename(path)) for path in self._exact)

    def find(self, directory: Directory, name: bytes) -> Found | None:
        """The file that a thread calls ``name``, relative to ``directory``. Most names are told by their ends."""
        if not name.startswith(b"/"):
            try:
                name = os.fsencode(os.readlink(directory.place)) + b"/" + name
            except OSError:
                return None  # no such directory, as the kernel will say
        if _UNTIDY.search(name):
            name = os.path.normpath(name)
            name = name[1:] if name.startswith(b"//") else name
        if name.rpartition(b"/")[2] not in self._ends and not name.startswith(self._tops):
            return None
        path = os.fsdecode(name)
        found = self._look_up(_own(path, directory.tid))
        if found and not path.startswith(_KERNELS) and not _same_root(directory.tid):
            return None  # a file of the root file system that is being built
        return found

    def _look_up(self, path: str) -> Found | None:
        rule = self._exact.get(path)
        if rule is None:
            rule = next((rule for pattern, rule in self._patterns if pattern.fullmatch(path)), None)
        return Found(rule, re.sub(r"(?<=/)\d+(?=/|$)", "PID", path)) if rule else None


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(
        "".join({"*": ".*", "PID": r"\d+"}.get(part, re.escape(part)) for part in re.split(r"(\*|PID)", path))
    )


def _own(path: str, tid: int) -> str:
    """A thread that names its process or itself by number names /proc/self. In another pid namespace numbers differ."""
    numbered = _NUMBERED.match(path)
    if not numbered or int(numbered[1]) not in (tid, proc.number(tid, "Tgid")):
        return path
    return f"/proc/self/{path[numbered.end() :]}"


def _same_root(tid: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{tid}/root"), os.stat("/"))
    except OSError:
        return False


def is_device(status: os.stat_result) -> bool:
    """Whether it is /dev/random or /dev/urandom, whatever its name is."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev in _DEVICE_NUMBERS


def holds_device(tid: int, descriptor: int) -> bool:
    """Whether a thread's descriptor is open at a random device."""
    try:
        return is_device(os.stat(f"/proc/{tid}/fd/{descriptor}"))
    except OSError:
        return False


_DEVICE_NUMBERS = (os.makedev(1, 8), os.makedev(1, 9))  # linux/Documentation/admin-guide/devices.txt


class Asker(NamedTuple):
    """For whom a file is made: a thread. ``epoch`` is in seconds; ``stream`` is None where that is not fixed."""

    tid: int
    epoch: int
    seed: str
    stream: Stream | None


def content(path: str, asker: Asker) -> bytes | None:
    """What a fixed file holds; None where it has to be the real one. A device is no file of bytes, and so real."""
    make = _CONTENTS.get(path)
    return make(asker) if make else None


def _uuid(number: bytes) -> bytes:
    """RFC 9562, version 4."""
    given = bytearray(number)
    given[6], given[8] = given[6] & 0x0F | 0x40, given[8] & 0x3F | 0x80
    text = given.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])).encode() + b"\n"


def _random_uuid(asker: Asker) -> bytes | None:
    return _uuid(asker.stream.take(16)) if asker.stream else None


def _boot_id(asker: Asker) -> bytes:
    return _uuid(Stream(b"boot %d %b" % (asker.epoch, asker.seed.encode("utf-8", "surrogateescape"))).take(16))


def _stat(asker: Asker) -> bytes:
    idle = UPTIME * 100
    lines = [f"cpu  0 0 0 {idle * CPUS} 0 0 0 0 0 0"]
    lines += [f"cpu{number} 0 0 0 {idle} 0 0 0 0 0 0" for number in range(CPUS)]
    lines += ["intr 0", "ctxt 0", f"btime {max(0, asker.epoch - UPTIME)}", f"processes {PROCESSES}"]
    lines += ["procs_running 1", "procs_blocked 0", "softirq 0 0 0 0 0 0 0 0 0 0 0"]
    return "".join(f"{line}\n" for line in lines).encode()


def _cpuinfo(_asker: Asker) -> bytes:
    rows = {
        "vendor_id": "detbuild", "cpu family": "6", "model": "0", "model name": "detbuild", "stepping": "0",
        "cpu MHz": "1000.000", "cache size": "1024 KB", "physical id": "0", "siblings": str(CPUS), "core id": "{}",
        "cpu cores": str(CPUS), "apicid": "{}", "fpu": "yes", "fpu_exception": "yes", "cpuid level": "1", "wp": "yes",
        "flags": "fpu tsc msr cx8 cmov clflush mmx fxsr sse sse2 ht syscall nx lm", "bogomips": "2000.00",
        "clflush size": "64", "address sizes": "46 bits physical, 48 bits virtual",
    }  # fmt: skip
    body = "".join(f"{name.ljust(8)}\t: {value}\n" for name, value in rows.items())
    return "".join(f"processor\t: {number}\n{body.format(number, number)}\n" for number in range(CPUS)).encode()


def _cpus(_asker: Asker) -> bytes:
    return b"0-%d\n" % (CPUS - 1)


def _localtime(_asker: Asker) -> bytes:
    """A TZif file of version 2 (RFC 9636) with UTC alone."""
    block = struct.pack(">4sc15x6I", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">iBB", 0, 0, 0) + b"UTC\0"
    return block * 2 + b"\nUTC0\n"


def _owner(tid: int) -> tuple[int, int]:
    """The effective user and group of a thread; 0 for root's, and for one whose numbers mean others' there."""
    if os.readlink(f"/proc/{tid}/ns/user") != os.readlink("/proc/self/ns/user"):
        return 0, 0
    return int(proc.status(tid, "Uid").split()[1]), int(proc.status(tid, "Gid").split()[1])


def _passwd(asker: Asker) -> bytes | None:
    """passwd(5) with one more line: whoever looks for a number finds the first."""
    uid, gid = _owner(asker.tid)
    real = Path("/etc/passwd").read_bytes()
    own = next((line.split(b":") for line in real.splitlines() if line.split(b":")[2:3] == [b"%d" % uid]), [])
    home, shell = own[5:7] if len(own) > 6 else (b"/", b"/bin/sh")
    return b"%b:x:%d:%d::%b:%b\n%b" % (USER, uid, gid, home, shell, real) if uid else None


def _group(asker: Asker) -> bytes | None:
    """group(5), in the same way."""
    gid = _owner(asker.tid)[1]
    return b"%b:x:%d:\n%b" % (USER, gid, Path("/etc/group").read_bytes()) if gid else None


def _text(text: str) -> Callable[[Asker], bytes]:
    return lambda _asker: f"{text}\n".encode()


_CONTENTS: dict[str, Callable[[Asker], bytes | None]] = {
    "/etc/passwd": _passwd,
    "/etc/group": _group,
    "/proc/sys/kernel/random/uuid": _random_uuid,
    "/proc/sys/kernel/random/boot_id": _boot_id,
    "/proc/sys/kernel/random/entropy_avail": _text("256"),
    "/proc/sys/kernel/random/poolsize": _text("256"),
    "/proc/sys/kernel/hostname": _text(NODE),
    "/etc/hostname": _text(NODE),
    "/etc/mailname": _text(NODE),
    "/proc/sys/kernel/domainname": _text(DOMAIN),
    "/proc/sys/kernel/osrelease": _text(RELEASE),
    "/proc/sys/kernel/version": _text(VERSION),
    "/proc/version": _text(f"Linux version {RELEASE} ({NODE}@{NODE}) (gcc) {VERSION}"),
    "/etc/machine-id": _text(MACHINE_ID),
    "/var/lib/dbus/machine-id": _text(MACHINE_ID),
    "/etc/hostid": lambda _asker: HOST_ID,
    "/etc/localtime": _localtime,
    "/etc/timezone": _text("Etc/UTC"),
    "/proc/uptime": _text(f"{UPTIME}.00 {UPTIME * CPUS}.00"),
    "/proc/loadavg": _text(f"0.00 0.00 0.00 1/{PROCESSES} 1"),
    "/proc/stat": _stat,
    "/proc/cpuinfo": _cpuinfo,
    "/sys/devices/system/cpu/online": _cpus,
    "/sys/devices/system/cpu/possible": _cpus,
    "/sys/devices/system/cpu/present": _cpus,
}
MADE = frozenset((*_CONTENTS, *DEVICES))
