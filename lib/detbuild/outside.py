# SPDX-License-Identifier: MIT
"""Files that show the outside world, and what policy `strict` does when a program opens one to read it.

Each row stands under the rule of `detbuild.strict` that it goes with. The first row that matches decides; a file that
no row names is a build's own. Sources: proc(5), random(4), localtime(5), hostname(5), mailname(5), machine-id(5),
gethostid(3), papersize(5), locale.conf(5), utmp(5), git-config(1), and the kernel's
Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

from typing import NamedTuple

from detbuild.calls import Treatment


class Files(NamedTuple):
    """Files that share a treatment and its reason.

    ``paths`` are absolute; ``*`` matches anything, a slash too, and PID a number. ``limit`` is what still comes
    through.
    """

    paths: tuple[str, ...]
    treatment: Treatment
    reason: str
    limit: str = ""


def _fixed(paths: str, reason: str, limit: str = "") -> Files:
    return Files(tuple(paths.split()), Treatment.FIXED, reason, limit)


def _passed(paths: str, reason: str) -> Files:
    return Files(tuple(paths.split()), Treatment.PASSED, reason)


def _reported(paths: str, reason: str) -> Files:
    return Files(tuple(paths.split()), Treatment.REPORTED, reason)


DEVICES = ("/dev/urandom", "/dev/random")

# What a process's directory and those of its threads have in common.
_OWN = (
    "maps smaps cmdline comm environ exe auxv fd/* fdinfo/* attr/* oom_score_adj uid_map gid_map setgroups"
    " coredump_filter"
)
_OWN_PLACES = ("/proc/self", "/proc/thread-self", "/proc/self/task/PID")

# Name of a rule -> its rows.
RULES: dict[str, tuple[Files, ...]] = {
    "random": (
        _fixed(
            " ".join(DEVICES),
            "the real device, whose every read is answered from the reading thread's stream, as getrandom is",
            "a descriptor that came over a socket is real",
        ),
        _reported("/dev/hwrng", "a chip's own random numbers"),
        _fixed("/proc/sys/kernel/random/uuid", "sixteen bytes of the reading thread's stream, as a UUID of version 4"),
        _fixed("/proc/sys/kernel/random/boot_id", "a UUID of the epoch and the seed, the same for all of a session"),
        _fixed("/proc/sys/kernel/random/entropy_avail /proc/sys/kernel/random/poolsize", "256, a full pool"),
    ),
    "identity": (
        _fixed("/proc/sys/kernel/hostname /etc/hostname", "the host's name that uname(2) tells"),
        _fixed("/proc/sys/kernel/domainname", "the domain that uname(2) tells"),
        _fixed("/proc/sys/kernel/osrelease /proc/sys/kernel/version /proc/version", "the kernel that uname(2) tells"),
        _fixed("/etc/mailname", "the host's name, by which git makes an address for who has none"),
        _fixed("/etc/machine-id /var/lib/dbus/machine-id", "one number for all machines"),
        _fixed("/etc/hostid", "what gethostid(3) makes of the host's name on a machine without this file"),
        _fixed(
            "/etc/localtime /etc/timezone",
            "UTC; the variable TZ, which comes first, is the caller's",
            "the link itself, by readlink(2), tells the zone's name",
        ),
        _fixed("/proc/uptime /proc/loadavg", "a day of uptime and no load, as sysinfo(2) tells"),
        _fixed(
            "/proc/stat /proc/cpuinfo",
            "as many CPUs as sched_getaffinity(2) tells, of no more than x86-64's baseline, that have done nothing; "
            "the boot was a day before the epoch",
            "the cpuid instruction tells the real processor",
        ),
        _fixed(
            "/sys/devices/system/cpu/online /sys/devices/system/cpu/possible /sys/devices/system/cpu/present",
            "as many CPUs as sched_getaffinity(2) tells",
            "the directory lists the real ones",
        ),
        _reported("/proc/meminfo", "the memory's real size and use, by which linkers and compilers choose their ways"),
        _fixed(
            "/etc/passwd /etc/group",
            "the caller's own user and group are called builder, in a line before the real ones",
            "ids, homes and other users are real; root is root, and reported",
        ),
        _reported(
            "/etc/os-release /usr/lib/os-release /etc/lsb-release /etc/debian_version /etc/redhat-release"
            " /etc/fedora-release /etc/centos-release /etc/system-release /etc/SuSE-release /etc/arch-release"
            " /etc/alpine-release /etc/gentoo-release /etc/slackware-version /etc/issue",
            "the distribution",
        ),
        _reported("/etc/locale.conf /etc/default/locale", "the machine's language, for who takes it from no variable"),
        _reported("/etc/papersize", "the machine's paper, on which documents are laid out"),
        _reported("/etc/gitconfig", "the machine's settings of git"),
        _reported("/etc/hosts /etc/resolv.conf", "the network"),
        _reported("/etc/mtab", "what is mounted"),
        _reported("/run/utmp /var/run/utmp", "who is logged in, and when the machine started"),
        _reported("/dev/rtc* /dev/ptp* /dev/kmsg", "the clock chips, and the kernel's log"),
        _passed(
            " ".join(f"{place}/{name}" for place in _OWN_PLACES for name in _OWN.split()),
            "a program's own memory, which rule layout fixes, its files and its names",
        ),
        _passed(
            "/proc/filesystems /proc/sys/kernel/ngroups_max /proc/sys/kernel/cap_last_cap /proc/sys/kernel/pid_max"
            " /proc/sys/vm/overcommit_memory /proc/sys/fs/* /sys/kernel/mm/transparent_hugepage/* /sys/fs/selinux/*"
            " /proc/sys/crypto/fips_enabled",
            "limits and abilities of the kernel, by which libraries choose at each start",
        ),
        _reported("/proc/self/* /proc/thread-self/*", "times, mounts and process ids of the program"),
        _reported("/proc/PID/*", "another process"),
        _reported("/proc/* /sys/*", "the kernel and the machine"),
    ),
}
