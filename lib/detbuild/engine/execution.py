# SPDX-License-Identifier: MIT
"""What an execve(2) under way will run: the program and its arguments, as /proc/PID tells them afterwards."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Sequence
from typing import NamedTuple

from detbuild.engine import formats
from detbuild.engine.namespace import AT_FDCWD, Directory, opened
from detbuild.linux import memory, mounts

_AT_EMPTY_PATH = 0x1000

LONGEST_PATH = 4096
_NAME = 256  # bytes of a string that are read at once: most are no longer
_LONGEST_ARGUMENT = 1 << 17  # bytes: MAX_ARG_STRLEN
_NEAR = 4096  # strings no further apart are read at once
_POINTERS = 64  # read at once

_HEAD = 256  # BINPRM_BUF_SIZE: what the kernel reads of a file to know its format
_DEEPEST = 5  # scripts that are interpreted by scripts
_REMEMBERED = 4096
_SETTLED = 20_000_000  # nanoseconds: what is written again sooner may have the same times (CONFIG_HZ of 100 at least)


class Execution(NamedTuple):
    """``executable`` is what /proc/PID/exe will show, ``arguments`` are /proc/PID/cmdline's."""

    executable: str
    arguments: tuple[bytes, ...]


class Call(NamedTuple):
    """execve(2) or execveat(2), by a thread that waits for our answer. ``word`` is its pointers' size in bytes."""

    tid: int
    name: str
    values: tuple[int, ...]
    word: int


class _File(NamedTuple):
    """A file, once looked at. A script names its interpreter, and perhaps one argument for it.

    An interpreter that the machine has for the file's format may get its argv[0] as well.
    """

    path: str
    interpreter: bytes = b""
    argument: bytes | None = None
    keeps_name: bool = False


class Executions:
    """Looks at the callers' memory and files; what files are is looked up once, until they change."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int, int, int, int], _File] = {}

    def look(self, call: Call) -> Execution | None:
        """None where the call will fail. Raises OSError where the caller's memory or files are out of reach."""
        descriptor, at, pointers, flags = AT_FDCWD, *call.values[:2], 0
        if call.name == "execveat":
            descriptor, at, pointers, _, flags = call.values[:5]
            descriptor = signed(descriptor)
        try:
            name = text(call.tid, at, LONGEST_PATH)
            directory = Directory(call.tid, descriptor)
            if name is None or (not name and not flags & _AT_EMPTY_PATH):
                return None
            file = self._file(directory, name)
            if file is None:
                return None
            arguments = strings(call.tid, pointers, call.word) or (b"",)  # the kernel gives every program an argv[0]
        except OSError as error:
            if error.errno == errno.EFAULT:
                return None  # the caller's own
            raise
        given = name
        if file.interpreter and descriptor != AT_FDCWD and not name.startswith(b"/"):
            given = b"/dev/fd/%d" % descriptor + (b"/" + name if name else b"")
        return self._interpreted(directory, file, given, arguments)

    def _interpreted(
        self, directory: Directory, file: _File, name: bytes, arguments: tuple[bytes, ...]
    ) -> Execution | None:
        directory = Directory(directory.tid, AT_FDCWD)
        for _ in range(_DEEPEST + 1):
            if not file.interpreter:
                return Execution(file.path, arguments)
            extra = () if file.argument is None else (file.argument,)
            arguments = (file.interpreter, *extra, name, *arguments[not file.keeps_name :])
            name = file.interpreter
            found = self._file(directory, name)
            if found is None:
                return None
            file = found
        return None

    def _file(self, directory: Directory, name: bytes) -> _File | None:
        with opened(directory, name) as place:
            if place is None:
                return None
            try:
                return self._looked(place, name, directory.tid)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES):
                    return None  # the caller will be told the same
                raise

    def _looked(self, place: str, name: bytes, tid: int) -> _File | None:
        status = os.stat(place)
        if not stat.S_ISREG(status.st_mode):
            return None
        if place.startswith("/proc/"):
            return _look(place, name, tid)  # a number there may be somebody else's tomorrow
        key = (place, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        file = self._files.get(key)
        if file is None:
            file = _look(place, name, tid)
            if len(self._files) >= _REMEMBERED:
                self._files.clear()
            if time.time_ns() - status.st_ctime_ns > _SETTLED:
                self._files[key] = file
        return file


def _look(place: str, name: bytes, tid: int) -> _File:
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if mounts.served(fd, tid):
            raise OSError(errno.EDEADLK, f"who serves {path} (FUSE) may be waiting for an answer too")
        try:
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except PermissionError:
            return _File(path)  # who may not read a file may execute it, but not as a script
        try:
            head = os.pread(readable, _HEAD, 0)
        finally:
            os.close(readable)
    finally:
        os.close(fd)
    for form in formats.registered():  # asked before the kernel's own formats
        if form.matches(name, head):
            return _File(path, form.interpreter, None, form.keeps_name)
    return _File(path, *_script(head))


def _script(head: bytes) -> tuple[bytes, bytes | None]:
    """The interpreter and its argument in a file's first line, as load_script() of the kernel's binfmt_script.c."""
    if not head.startswith(b"#!"):
        return b"", None
    line, newline, _ = head[2:].partition(b"\n")
    line, end, _ = line.partition(b"\0")
    if not newline and not end and len(head) == _HEAD:
        line = line[:-1]
        if not re.search(rb"[ \t]", line.lstrip(b" \t")):
            return b"", None  # cut short in the middle of the interpreter's name
    interpreter, _, argument = re.sub(rb"[ \t]+", b" ", line.strip(b" \t"), count=1).partition(b" ")
    return interpreter, argument or None


def signed(register: int) -> int:
    """The int that a caller passed: a register's lower half."""
    return (register & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


def text(tid: int, at: int, longest: int) -> bytes | None:
    """A string in a thread's memory, None for one of ``longest`` bytes or more. Raises OSError."""
    found = b""
    while len(found) < longest:
        part = memory.read(tid, at + len(found), min(longest - len(found), _NAME, 4096 - (at + len(found)) % 4096))
        end = part.find(b"\0")
        if end >= 0:
            return found + part[:end]
        found += part
    return None


def strings(tid: int, at: int, word: int) -> tuple[bytes, ...]:
    """argv: what the pointers of ``word`` bytes at ``at``, up to a NULL, point to. Raises OSError."""
    if not at:
        return ()
    pointers: list[int] = []
    while True:
        data = memory.read(tid, at + len(pointers) * word, _POINTERS * word)
        if len(data) < word:
            raise OSError(errno.EFAULT, "argv ends before its NULL")
        more = memoryview(data[: len(data) // word * word]).cast("Q" if word == 8 else "I").tolist()
        if 0 in more:
            return _texts(tid, pointers + more[: more.index(0)])
        pointers += more


def _texts(tid: int, pointers: Sequence[int]) -> tuple[bytes, ...]:
    ordered = sorted(set(pointers))
    found: dict[int, bytes] = {}
    start = 0
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and ordered[end] - ordered[end - 1] < _NEAR:
            end += 1
        base = ordered[start]
        data = memory.read(tid, base, ordered[end - 1] - base + _NEAR)
        for pointer in ordered[start:end]:
            stop = data.find(b"\0", pointer - base)
            found[pointer] = data[pointer - base : stop] if stop >= 0 else _long(tid, pointer)
        start = end
    return tuple(found[pointer] for pointer in pointers)


def _long(tid: int, pointer: int) -> bytes:
    whole = text(tid, pointer, _LONGEST_ARGUMENT)
    if whole is None:
        raise OSError(errno.EFAULT, "an argument has no end")
    return whole
