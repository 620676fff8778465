# SPDX-License-Identifier: MIT
"""Random numbers that a session fixes: each thread has a stream, which depends on what it is and not on when.

A stream begins at a program's execution, with the epoch, the session's seed, the command line and a count: how many
times the program that started this one has started that very command line. A child that executes nothing, and a
thread, get a stream by their number among their maker's. Process ids, clocks and other processes have no part in it.
"""

from __future__ import annotations

import errno
import re
from array import array
from collections.abc import Callable, Sequence

from detbuild.linux import memory
from detbuild.linux.x86_64 import Abi

# The directories of a path in a command line: builds of one source in two places differ in them alone.
_DIRECTORIES = re.compile(rb"(?:/[^/\0\s:=,;'\"]+)+/")
# BitBake calls a task's script run.do_compile.PID.
_TASK_SCRIPT = re.compile(rb"(?<=/)(run\.\w+)\.[0-9]+(?=\0)")
# What gcc's driver passes on between its passes, by names that it makes of its process id (libiberty's mkstemps.c).
_PASSED_ON = re.compile(rb"(?<=/)cc[A-Za-z0-9]{6}(?=\0|\.(?:s|o|res|le|ld|ltrans[^\0/]*)\0)")

_LONGEST = (1 << 25) - 1  # bytes that one call of getrandom(2) returns at the most, by its manual page
_PIECE = 1 << 20
_VECTORS = 1024  # UIO_MAXIOV
_NONBLOCK, _RANDOM, _INSECURE = 1, 2, 4
_CHAIN = 16  # bytes
_KEY = 8  # bytes: one word of BPF's, which makes children's keys too
_WORD = (1 << 64) - 1
DEVICE = 1 << 40  # the first of the numbers by which reads of random devices have their keys: no child has one


class Stream:
    """An endless source of bytes. Streams of different keys are different; ``reads`` were taken of it already."""

    __slots__ = ("_born", "key", "reads")

    def __init__(self, key: bytes, reads: int = 0) -> None:
        self.key, self.reads, self._born = key, reads, 0

    def take(self, size: int) -> bytes:
        """The next read's bytes."""
        import hashlib  # late: it loads OpenSSL, and most sessions have no stream

        self.reads += 1
        return hashlib.shake_256(b"read%b%d" % (self.key, self.reads)).digest(size)

    def take_of_device(self, size: int) -> bytes:
        """The next read's bytes, of a random device: the same as device.bpf.c makes."""
        self.reads += 1
        key = mixed(int.from_bytes(self.key[:_KEY], "little"), DEVICE + self.reads)
        words = array("Q", [mixed(key, number) for number in range(1, (size + 7) // 8 + 1)])
        return words.tobytes()[:size]

    def child(self) -> Stream:
        """The stream of the next thread, or of the next process, that the owner of this one makes."""
        self._born += 1
        return Stream(mixed(int.from_bytes(self.key[:_KEY], "little"), self._born).to_bytes(_KEY, "little"))


def mixed(key: int, number: int) -> int:
    """The key of one child, as tree.bpf.c makes it: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    key = key + number * 0x9E3779B97F4A7C15 & _WORD
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    key = (key ^ key >> 27) * 0x94D049BB133111EB & _WORD
    return key ^ key >> 31


class Origin:
    """One execution of a program, as random numbers know it; its children that executed nothing share it.

    ``path`` holds its count among the executions of the same command line by the same program, behind its maker's.
    ``chain`` digests all command lines up to here, each with its count, so that no two executions have the same.
    ``former`` is the one by whose program it was made.
    """

    __slots__ = ("_counts", "chain", "former", "path")

    def __init__(self, path: tuple[int, ...] = (), chain: bytes = b"", former: Origin | None = None) -> None:
        self.path, self.chain, self.former = path, chain, former
        self._counts: dict[bytes, int] | None = None  # most programs execute none

    def execution(self, command_line: bytes) -> Origin:
        """The next execution of a command line, as /proc/PID/cmdline holds it, by this program."""
        import hashlib

        line = normalised(command_line)
        self._counts = self._counts or {}
        count = self._counts[line] = self._counts.get(line, 0) + 1
        chain = hashlib.blake2b(b"%b%d:%b" % (self.chain, count, line), digest_size=_CHAIN).digest()
        return Origin((*self.path, count), chain, self)

    def stems_from(self, other: Origin) -> bool:
        """Whether it is the other one, or was made by a program of the other's or of one that stems from that."""
        at: Origin | None = self
        while at and at is not other:
            at = at.former
        return at is not None

    def stream(self, epoch: int, seed: str, command_line: bytes) -> Stream:
        """The stream with which that execution begins. ``epoch`` is in seconds since 1970."""
        import hashlib

        parts = [b"%d" % epoch, seed.encode("utf-8", "surrogateescape"), normalised(command_line)]
        parts += [b"%d" % number for number in self.path]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(b"%d:%b" % (len(part), part))
        return Stream(digest.digest()[:_KEY])


def normalised(command_line: bytes) -> bytes:
    """A command line without the directories of absolute paths, which are the build's place and not its source.

    Nor do gcc's temporary names count, for cc1 takes the seed of its symbols from a random device, nor BitBake's
    process id in the name of a task's script.
    """
    return _TASK_SCRIPT.sub(rb"\1", _PASSED_ON.sub(b"cc", _DIRECTORIES.sub(b"/", command_line)))


def getrandom(pid: int, _abi: Abi, arguments: Sequence[int], stream: Stream) -> int:
    """Answer getrandom(2) from a stream: the call's result. Raises OSError where the caller is out of reach."""
    address, size, flags = arguments[0], arguments[1], arguments[2] & 0xFFFFFFFF
    if flags & ~(_NONBLOCK | _RANDOM | _INSECURE) or flags & (_RANDOM | _INSECURE) == _RANDOM | _INSECURE:
        return -errno.EINVAL
    return _give(pid, [(address, min(size, _LONGEST))], stream.take)


def read_device(pid: int, abi: Abi, call: str, arguments: Sequence[int], stream: Stream) -> int:
    """Answer a read of /dev/random or /dev/urandom from a stream: the call's result. Raises OSError as ``getrandom``.

    What would move the bytes inside the kernel is refused as for files that cannot: its users fall back to read(2).
    """
    if call in ("read", "pread64"):
        return _give(pid, [(arguments[1], min(arguments[2], _LONGEST))], stream.take_of_device)
    if call not in ("readv", "preadv", "preadv2"):
        return -errno.EINVAL
    count = arguments[2]
    if count > _VECTORS:
        return -errno.EINVAL
    data = memory.read(pid, arguments[1], count * 2 * abi.word) if count else b""
    if len(data) < count * 2 * abi.word:
        raise OSError(errno.EFAULT, "the vectors end before their page does")
    words = memoryview(data).cast("Q" if abi.word == 8 else "I").tolist()
    pieces, room = [], _LONGEST
    for address, size in zip(words[::2], words[1::2], strict=True):
        pieces.append((address, min(size, room)))
        room -= pieces[-1][1]
    return _give(pid, pieces, stream.take_of_device)


def _give(pid: int, pieces: Sequence[tuple[int, int]], take: Callable[[int], bytes]) -> int:
    """Write one read's bytes to addresses, of so many bytes each; how many could be written."""
    data = take(sum(size for _, size in pieces))
    done = 0
    for address, size in pieces:
        for start in range(0, size, _PIECE):
            part = data[done : done + min(_PIECE, size - start)]
            try:
                memory.write(pid, address + start, part)
            except OSError as error:
                if error.errno != errno.EFAULT or not done:
                    raise
                return done
            done += len(part)
    return done
