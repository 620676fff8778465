# SPDX-License-Identifier: MIT
"""What policy `strict` does beyond policy `time`: five rules, each the rows that it puts in place of time's own.

The files of each rule stand in ``detbuild.outside``.

Sources: the manual pages of section 2, the Intel SDM, and the kernel's drivers/char/random.c, fs/readdir.c and
kernel/sys.c.
"""

from __future__ import annotations

from typing import NamedTuple

from detbuild.calls import Calls, Treatment

_FIXED, _REPORTED = Treatment.FIXED, Treatment.REPORTED

_OPENS = (
    Calls(
        ("open", "openat"),
        _FIXED,
        "a file of the outside world is one of fixed content, or is reported: see the outside files",
        when="reading",
        kind="files",
        limit="a program's own link to such a file, directories, stat(2) and readlink(2) show the real ones; under the "
        "tracer nobody looks at what glibc's dynamic linker opens, nor at what compilers open as headers",
    ),
    Calls(("openat2",), _FIXED, "as openat(2), with its flags in memory", kind="files"),
)

# Name of a rule -> its rows. The order is that in which a policy's name lists them.
RULES: dict[str, tuple[Calls, ...]] = {
    "random": (
        Calls(
            ("getrandom",),
            _FIXED,
            "a stream of the epoch, the seed, the program's command line and which of its reads it is; so is AT_RANDOM",
            kind="random",
            limit="the processor's rdrand and rdseed are real, and seen by nobody",
        ),
        *_OPENS,
        Calls(
            ("read", "readv", "pread64", "preadv", "preadv2"),
            _FIXED,
            "a random device's bytes come from the reading thread's stream",
            when="random device",
            kind="devices",
        ),
        Calls(
            ("sendfile", "sendfile64", "splice", "copy_file_range"),
            _FIXED,
            "EINVAL for a random device, as from kernels that cannot; every user falls back to read(2)",
            when="random device",
            kind="devices",
        ),
    ),
    "order": (
        Calls(
            ("getdents", "getdents64"),
            _FIXED,
            "a directory lists . and .., then its entries by the bytes of their names",
            kind="order",
        ),
        Calls(
            ("readdir",), _REPORTED, "the i386 call 89, of before 1997: one entry a call, in the file system's order"
        ),
    ),
    "layout": (
        Calls(
            ("personality",),
            _FIXED,
            "a session starts with ADDR_NO_RANDOMIZE, and what sets a personality keeps it",
            kind="layout",
            limit="an address on the stack still depends on the length of the environment and of the arguments",
        ),
    ),
    "pid": (
        Calls(
            ("getpid", "getppid", "gettid"),
            _FIXED,
            "the number of a shell, or of another program whose row says so, and of its first thread, depends on the "
            "epoch, the seed, its command line and those of the programs above it",
            kind="process",
            limit="a parent knows its child by the real number, and so does /proc; what a shell only forks has it",
        ),
        Calls(
            (
                "kill",
                "tkill",
                "tgkill",
                "pidfd_open",
                "setpgid",
                "getpgid",
                "getsid",
                "getpriority",
                "setpriority",
                "ioprio_get",
                "ioprio_set",
                "prlimit64",
                "sched_getparam",
                "sched_setparam",
                "sched_getscheduler",
                "sched_setscheduler",
            ),
            _FIXED,
            "whoever gives a number back that a program was told means its process",
            when="told",
            kind="told",
        ),
        Calls(
            ("ioctl",),
            _FIXED,
            "a terminal is given to a shell by the number that the shell was told",
            when="group",
            kind="terminal",
        ),
    ),
    "identity": (
        Calls(
            ("uname", "olduname", "oldolduname"),
            _FIXED,
            "one name of host and domain, one release and version of the kernel; the machine is the real one",
            kind="identity",
        ),
        Calls(
            ("sysinfo",),
            _FIXED,
            "one uptime, no load and one number of processes; the memory's size is real",
            kind="identity",
        ),
        Calls(
            ("sched_getaffinity",),
            _FIXED,
            "four CPUs, so that builds run in parallel, and the same number of jobs everywhere",
            kind="identity",
            limit="rseq, getcpu(2) and the cpuid instruction tell real ones",
        ),
        Calls(
            ("sched_setaffinity",),
            _FIXED,
            "succeeds and binds nothing, for the CPUs that a program is told of may not be there",
            kind="identity",
        ),
        Calls(
            ("ioctl",),
            _FIXED,
            "a terminal has 24 lines of 80 columns; where there is none, the caller is told so",
            when="window, address or group",
            kind="terminal",
            limit="a network card's address is real, and a leak in the record; who asks by netlink is seen by nobody",
        ),
        Calls(
            ("getpid", "getppid", "gettid"),
            _REPORTED,
            "real; on record as passed, since nearly every shell asks at its start and prints it nowhere",
            kind="process",
        ),
        *_OPENS,
    ),
}


class Apart(NamedTuple):
    """What no rule for all holds: an instruction, or what one engine does otherwise than the other, each in words."""

    what: str
    tracer: str
    ebpf: str
    reason: str


_UNSEEN = "real, seen by nobody"

APART = (
    Apart(
        "rdtsc, rdtscp",
        "real, and reported once a thread (rule random)",
        _UNSEEN,
        "an instruction, of which Linux makes a signal (PR_SET_TSC); only a tracer can take that from a program",
    ),
    Apart("rdrand, rdseed", _UNSEEN, _UNSEEN, "instructions, and Linux can trap neither"),
    Apart(
        "cpuid",
        _UNSEEN,
        _UNSEEN,
        "an instruction; where Linux can trap it (ARCH_SET_CPUID), each program's start would stop some forty times",
    ),
    Apart("the CPU's number in rseq", _UNSEEN, _UNSEEN, "the kernel writes it to memory, without a call"),
    Apart(
        "opens by glibc's dynamic linker, and with O_NOCTTY alone by programs of which most are looked at",
        _UNSEEN,
        "fixed or reported, as all others",
        "libraries and headers, nine in ten of a build's opens: a stop costs the tracer more than the supervisor",
    ),
    Apart(
        "outside files for a program with a seccomp filter of its own",
        "real, and reported",
        "fixed",
        "the tracer has the program make a descriptor, which its filter may forbid; the supervisor gives one",
    ),
    Apart(
        "a random device whose descriptor came over a socket",
        _UNSEEN,
        "fixed",
        "the tracer looks at reads once a program, or one that started it, has opened a device; BPF looks at all",
    ),
    Apart(
        "a read of more than 3 MiB from a random device",
        "fixed",
        "real beyond that, and a gap",
        "BPF writes over what was read, in a loop that has an end",
    ),
)
