# SPDX-License-Identifier: MIT
"""Every system call of every table, and what policy `time` does with it: the data behind ``detbuild.policy``.

A call is judged by what it can show or do: a wall clock, a file time, a wait until a wall-clock moment, a way out of
the session. Sources: the manual pages of section 2, and the kernel's include/uapi.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Treatment(enum.Enum):
    """What becomes of a call."""

    FIXED = "fixed"  # answered, corrected or counted by the session
    PASSED = "passed"  # real, and safe
    REPORTED = "reported"  # real, and written down as a leak
    REFUSED = "refused"  # answered ENOSYS: the program falls back to calls that can be fixed


# What an engine does at a call that is fixed.
KINDS = {
    "": "nothing",
    "clock": "answer the read from the thread's clock",
    "sleep": "count a completed sleep in the thread's clock",
    "deadline": "carry an absolute wall deadline over to the real clock; a relative wait that ends counts as a sleep",
    "file times": "show later file times as the epoch",
    "write times": "turn explicit times inside the shown window into the real now",
    "untraced": "clear the flag and let the call go on",
    "random": "answer from the thread's own stream of numbers",
    "order": "answer from a sorted listing",
    "layout": "set the flag and let the call go on",
    "identity": "answer with fixed values",
    "files": "give a descriptor of fixed content, or report the file",
    "devices": "of a descriptor of /dev/random or /dev/urandom: answer from the thread's own stream of numbers",
    "process": "answer a shell with a number of its own, and report others as passed",
    "told": "give the kernel the real number for one that was told",
    "terminal": "put fixed values over a window's size, give the real number for a group that was told, and report "
    "who asks for a network card's address",
}

# The condition on the call's arguments under which a rule holds; every other call of that name passes.
CONDITIONS = {
    "": "always",
    "wall clock": "the clock that the call names is a wall clock",
    "wall deadline": "a futex operation with FUTEX_CLOCK_REALTIME, or FUTEX_LOCK_PI, and a timeout",
    "absolute": "the flags hold TIMER_ABSTIME or TFD_TIMER_ABSTIME",
    "untraced": "the flags hold CLONE_UNTRACED",
    "no descriptors": "it waits for no descriptor at all: a sleep",
    "timeout": "the pointer to the timeout is not NULL",
    "reading": "the flags ask to read, for no directory, no new file and no mere path",
    "group": "the request is TIOCSPGRP",
    "window or address": "the request is TIOCGWINSZ or SIOCGIFHWADDR",
    "window, address or group": "the request is TIOCGWINSZ, SIOCGIFHWADDR or TIOCSPGRP",
    "told": "an argument may be a process number that the session told: 4194304 or more, which no kernel gives",
    "random device": "the program, or one that started it, has opened /dev/random or /dev/urandom",
}

# CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_REALTIME_ALARM, CLOCK_TAI (linux/time.h).
WALL_CLOCKS = (0, 5, 8, 11)
# And CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME.
ALL_CLOCKS = (*WALL_CLOCKS, 1, 4, 6, 7)


class Calls(NamedTuple):
    """Calls that share a treatment and its reason.

    ``limit`` says what wall time, file time or way out such a call still leaves, where it leaves one.
    """

    names: tuple[str, ...]
    treatment: Treatment
    reason: str
    when: str = ""
    kind: str = ""
    limit: str = ""


def _fixed(names: str, kind: str, reason: str, when: str = "", limit: str = "") -> Calls:
    return Calls(tuple(names.split()), Treatment.FIXED, reason, when, kind, limit)


def _passed(names: str, reason: str, limit: str = "") -> Calls:
    return Calls(tuple(names.split()), Treatment.PASSED, reason, limit=limit)


def _reported(names: str, reason: str, limit: str = "") -> Calls:
    return Calls(tuple(names.split()), Treatment.REPORTED, reason, limit=limit)


def _refused(names: str, reason: str) -> Calls:
    return Calls(tuple(names.split()), Treatment.REFUSED, reason)


_CLOCKS = (
    _fixed("time", "clock", "the wall clock in seconds; gcc's __DATE__ and perl's time use it"),
    _fixed("gettimeofday", "clock", "the wall clock in microseconds, and the kernel's time zone"),
    _fixed(
        "clock_gettime clock_gettime64",
        "clock",
        "the wall clocks; monotonic, boot and CPU clocks stay real",
        "wall clock",
        "monotonic and boot clocks tell how long the machine has been up, under policy strict too: waits go by them",
    ),
    _fixed("adjtimex", "clock", "holds the wall clock beside the state of its discipline"),
    _fixed("clock_adjtime clock_adjtime64", "clock", "adjtimex for a named clock", "wall clock"),
    _refused(
        "settimeofday stime clock_settime clock_settime64",
        "as root it would set the machine's clock to a session's time",
    ),
    _passed("clock_getres clock_getres_time64", "a clock's resolution, not its time"),
    _passed(
        "times getrusage wait4 waitid waitpid",
        "CPU time and ticks since boot: no moment of the wall clock",
        "times(2) tells how long the machine has been up, under policy strict too: programs measure waits by it",
    ),
    _passed("sysinfo", "seconds since boot, load and memory; host identity is for policy strict"),
)

_WAITS = (
    _fixed("nanosleep", "sleep", "sleeps as long as outside, and the thread's clock moves by it"),
    _fixed(
        "clock_nanosleep clock_nanosleep_time64",
        "deadline",
        "a relative sleep moves the thread's clock; an absolute one on a wall clock ends when it would outside",
    ),
    _fixed(
        "select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64",
        "sleep",
        "without descriptors it is a sleep; its timeout is relative otherwise",
        "no descriptors",
        "the i386 call 82 hides its descriptor count in memory: its sleeps are not counted",
    ),
    _fixed(
        "futex futex_time64",
        "deadline",
        "pthread_cond_timedwait, sem_timedwait and pthread_mutex_timedlock wait until a wall-clock moment",
        "wall deadline",
    ),
    _fixed("futex_waitv futex_wait", "deadline", "the deadline is absolute, on the clock that is named", "wall clock"),
    _fixed(
        "mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64",
        "deadline",
        "the deadline is an absolute CLOCK_REALTIME time",
        "timeout",
    ),
    _fixed(
        "timer_settime timer_settime64 timerfd_settime timerfd_settime64",
        "deadline",
        "an absolute time of a timer on a wall clock; relative timers and other clocks are real",
        "absolute",
    ),
    _passed(
        "timer_create timer_gettime timer_gettime64 timer_getoverrun timer_delete"
        " timerfd_create timerfd_gettime timerfd_gettime64",
        "a timer's clock, remaining time and expirations: intervals, no moments",
    ),
    _passed("alarm setitimer getitimer", "intervals on the real clock"),
    _passed(
        "epoll_wait epoll_pwait epoll_pwait2 semop semtimedop semtimedop_time64 rt_sigtimedwait rt_sigtimedwait_time64"
        " io_getevents io_pgetevents io_pgetevents_time64",
        "timeouts are intervals; what they wait for is real",
        "a timeout that expires does not move the thread's clock",
    ),
    _passed("futex_wake futex_requeue", "no timeout"),
    _passed("restart_syscall", "goes on with a wait whose deadline was carried over when it began"),
    _passed("pause rt_sigsuspend sigsuspend sched_yield", "waits for others, without a time"),
)

_FILES = (
    _fixed(
        "stat fstat lstat newfstatat fstatat64 stat64 fstat64 lstat64 oldstat oldfstat oldlstat statx",
        "file times",
        "mtime, ctime, atime and birth later than the epoch are shown as the epoch",
    ),
    _fixed(
        "utime utimes futimesat utimensat utimensat_time64",
        "write times",
        "a shown time that is written to disk would destroy the order of the files",
    ),
    _passed(
        "open openat openat2 creat mkdir mkdirat mknod mknodat link linkat symlink symlinkat rename renameat renameat2"
        " unlink unlinkat rmdir truncate truncate64 ftruncate ftruncate64 fallocate chmod fchmod fchmodat fchmodat2"
        " chown chown32 fchown fchown32 fchownat lchown lchown32 copy_file_range",
        "the kernel stamps files with the real now, which keeps their order; readers see it as the epoch",
    ),
    _passed(
        "read readv pread64 preadv preadv2 readahead sendfile sendfile64 splice tee vmsplice",
        "file contents",
        "btime of /proc/stat, /sys/class/rtc, /proc/driver/rtc and a timerfd's count come from the real clock",
    ),
    _passed(
        "write writev pwrite64 pwritev pwritev2 lseek _llseek close close_range dup dup2 dup3 flock fsync fdatasync"
        " sync syncfs sync_file_range fadvise64 fadvise64_64 cachestat memfd_create",
        "descriptors and contents, no times",
    ),
    _passed("fcntl fcntl64", "descriptor flags, locks and leases, no times"),
    _passed(
        "ioctl",
        "devices; none that a build opens tells the time",
        "RTC_RD_TIME of /dev/rtc, SIOCGSTAMP of a socket and XFS_IOC_BULKSTAT carry wall and file times",
    ),
    _passed(
        "access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir chroot umask statfs fstatfs statfs64"
        " fstatfs64 ustat sysfs statmount listmount name_to_handle_at open_by_handle_at file_getattr file_setattr",
        "names, modes, attributes and file systems, no times",
    ),
    _passed("getdents getdents64 readdir", "names and kinds; their order is for policy strict"),
    _passed(
        "setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr"
        " flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat",
        "attributes are contents that some program wrote",
    ),
    _passed(
        "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_init fanotify_mark",
        "events carry names and no times",
    ),
    _passed("quotactl quotactl_fd", "disk quota", "an exceeded quota's grace period ends at a wall-clock moment"),
    _passed("io_setup io_destroy io_submit io_cancel", "reads and writes files later; it can make no other call"),
)

_ESCAPES = (
    _refused(
        "io_uring_setup io_uring_enter io_uring_register",
        "a ring makes calls that no filter sees; every user has a fallback",
    ),
    _refused("clone3", "its flags, CLONE_UNTRACED among them, lie in memory; libc falls back to clone"),
    _fixed("clone", "untraced", "a child with CLONE_UNTRACED would leave the session", "untraced"),
    _reported(
        "ptrace",
        "gdb, strace and LeakSanitizer work: what they trace is lent to them, and fixed again when they let it go",
        "what runs on under another tracer sees real clocks and file times; one that only looks leaks nothing",
    ),
    _reported("perf_event_open", "samples can carry CLOCK_REALTIME or CLOCK_TAI (use_clockid)"),
    _reported("bpf", "a program can read CLOCK_TAI (bpf_ktime_get_tai_ns), and runs outside every filter"),
    _reported("iopl ioperm", "opens the ports of the machine's clock chip"),
    _passed("fork vfork execve execveat", "the engine follows", "a set-user-ID program leaves the session"),
    _passed("exit exit_group", "the program ends"),
    _passed(
        "seccomp prctl",
        "a program's own filter comes on top of the session's, which stays",
        "a filter with a supervisor of its own (SECCOMP_RET_USER_NOTIF) can let a clock read pass unfixed",
    ),
    _passed(
        "arch_prctl",
        "thread registers",
        "ARCH_MAP_VDSO_64 and its kin map a new vDSO, where the kernel has checkpoint/restore",
    ),
    _passed(
        "unshare setns",
        "the filter and the tracer stay; a time namespace moves monotonic and boot clocks only",
    ),
    _passed(
        "process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd"
        " pidfd_send_signal kcmp",
        "reaches processes of the same user, as ptrace permits; it carries no time",
    ),
    _passed(
        "userfaultfd",
        "the program answers its own page faults",
        "an answer that the engine writes to such a page waits for the program",
    ),
)

_MEMORY = (
    _passed(
        "mmap mmap2 mprotect munmap brk mremap msync mincore madvise mlock mlock2 mlockall munlock munlockall"
        " remap_file_pages mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages"
        " pkey_mprotect pkey_alloc pkey_free mseal memfd_secret map_shadow_stack",
        "memory; the vDSO that could be called unseen is hidden or neutralised at exec",
        "a program that looks for the vDSO in /proc/self/maps instead of the auxiliary vector can find its page",
    ),
    _passed("membarrier rseq", "order of memory and number of the CPU"),
    _passed(
        "set_thread_area get_thread_area modify_ldt set_tid_address set_robust_list get_robust_list vm86 vm86old"
        " uprobe uretprobe",
        "the thread's own set-up",
    ),
)

_PROCESSES = (
    _passed(
        "getpid getppid gettid getpgid getpgrp getsid setpgid setsid uname olduname oldolduname personality getcpu",
        "process and host identity are for policy strict",
    ),
    _passed("getrandom", "random numbers are for policy strict"),
    _passed(
        "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32 setgroups"
        " setgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32"
        " setresgid setresgid32 getresuid getresuid32 getresgid getresgid32 setfsuid setfsuid32 setfsgid setfsgid32"
        " capget capset",
        "users, groups and capabilities",
    ),
    _passed(
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack"
        " sigaction sigprocmask sigreturn sigpending signal sgetmask ssetmask kill tkill tgkill signalfd signalfd4",
        "signals carry no time",
    ),
    _passed(
        "getrlimit ugetrlimit setrlimit prlimit64 getpriority setpriority nice ioprio_set ioprio_get"
        " sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max"
        " sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity"
        " sched_getaffinity sched_setattr sched_getattr",
        "limits, priorities and time slices",
    ),
    _passed(
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_set_self_attr"
        " lsm_list_modules",
        "a program's own sandbox, which cannot lift the session's filter",
    ),
    _passed("add_key request_key keyctl", "keys; their expiry is an interval"),
)

_TRAFFIC = (
    _passed(
        "socket socketpair bind listen connect accept accept4 getsockname getpeername shutdown sendto sendmsg"
        " sendmmsg setsockopt",
        "messages that leave carry no time to the program",
    ),
    _passed(
        "recvfrom recvmsg recvmmsg recvmmsg_time64 getsockopt socketcall",
        "what comes in; timeouts are intervals",
        "SO_TIMESTAMP puts the wall clock beside a message, and any server can send the time",
    ),
    _passed("pipe pipe2 eventfd eventfd2 epoll_create epoll_create1 epoll_ctl", "descriptors between processes"),
    _passed(
        "shmget shmat shmdt shmctl msgget msgsnd msgrcv msgctl semget semctl ipc",
        "memory, messages and semaphores of System V",
        "IPC_STAT tells when an object was last used, by the wall clock",
    ),
    _passed("mq_open mq_unlink mq_notify mq_getsetattr", "POSIX message queues, their limits and their names"),
    _passed("syslog", "the kernel's log, stamped with the time since boot"),
)

_MACHINE = (
    _passed(
        "mount umount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick"
        " pivot_root swapon swapoff",
        "file systems and where they stand",
    ),
    _passed("acct", "the kernel writes real times to the accounting file, which no build reads"),
    _passed(
        "reboot sethostname setdomainname vhangup init_module finit_module delete_module kexec_load kexec_file_load",
        "the machine's own; it needs privilege that a build does not have",
    ),
    _passed(
        "_sysctl afs_syscall bdflush break create_module epoll_ctl_old epoll_wait_old ftime get_kernel_syms getpmsg"
        " gtty idle lock lookup_dcookie mpx nfsservctl prof profil putpmsg query_module security stty tuxcall ulimit"
        " uselib vserver",
        "dropped from the kernel, or never in it: ENOSYS",
    ),
)

TIME: tuple[Calls, ...] = _CLOCKS + _WAITS + _FILES + _ESCAPES + _MEMORY + _PROCESSES + _TRAFFIC + _MACHINE
