"""Executes programs in many ways, stops each before its first instruction, and prints what /proc tells of it then.

Run with a file that holds a JSON list of cases: a dict with ``argv`` and the file to execute, by ``path``, perhaps in
``cwd`` or below ``root``, or by the descriptor of ``fd`` with ``name`` below it; and how many executions there are in a
row. Prints a list of [pid, executable, argv], or [pid, errno] where nothing was executed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_EXECVEAT = 322
_EMPTY_PATH = 0x1000
_TRACEME, _CONT = 0, 7

libc = ctypes.CDLL(None, use_errno=True)


def execute(case: dict[str, Any]) -> None:
    """In the child: become what the case says, stopped."""
    fd = os.open(case["fd"], os.O_PATH if os.path.isdir(case["fd"]) else os.O_RDONLY) if "fd" in case else -1
    if fd >= 0:
        os.set_inheritable(fd, not case.get("closed"))
    if case.get("memory"):
        fd = os.memfd_create("made")
        with open(case["memory"], "rb") as image:
            os.write(fd, image.read())
    if "root" in case:
        os.chroot(case["root"])
        os.chdir("/")
    if "cwd" in case:
        os.chdir(case["cwd"])
    libc.ptrace(_TRACEME, 0, None, None)
    words = [os.fsencode(word) for word in case["argv"]]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    environment = (ctypes.c_char_p * 2)(b"PATH=/usr/bin:/bin", None)
    if fd >= 0:
        name = os.fsencode(case.get("name", ""))
        libc.syscall(_EXECVEAT, fd, name, argv, environment, 0 if name else _EMPTY_PATH)
    else:
        libc.execve(os.fsencode(case["path"]), argv, environment)
    os._exit(ctypes.get_errno())


def look(case: dict[str, Any]) -> list[Any]:
    pid = os.fork()
    if pid == 0:
        execute(case)
    for remaining in reversed(range(case.get("times", 1))):
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return [pid, os.waitstatus_to_exitcode(status)]
        if remaining:
            libc.ptrace(_CONT, pid, None, None)
    executable = os.readlink(f"/proc/{pid}/exe")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        argv = os.fsdecode(file.read()).split("\0")[:-1]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return [pid, executable, argv]


if __name__ == "__main__":
    with open(sys.argv[1]) as cases:
        print(json.dumps([look(case) for case in json.load(cases)]))
