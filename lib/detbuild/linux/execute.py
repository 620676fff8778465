# SPDX-License-Identifier: MIT
"""execve(2) with an environment byte for byte, found on PATH as execvp(3) finds it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import NoReturn

from detbuild.linux import proc
from detbuild.linux.libc import libc, oserror

_Strings = ctypes.POINTER(ctypes.c_char_p)
libc.execve.restype = ctypes.c_int
libc.execve.argtypes = [ctypes.c_char_p, _Strings, _Strings]

_DEFAULT_PATH = b"/bin:/usr/bin"  # glibc's, where there is no PATH
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


def own_environment() -> list[bytes]:
    """This process's environment as it was executed with: also twofold names, and strings without a name.

    os.environ may hold other things: Python sets LC_CTYPE in the C locale (PEP 538).
    """
    return proc.read("self", "environ").split(b"\0")[:-1]


def execute(file: str, arguments: Sequence[str], environment: Sequence[bytes], shell: bool = False) -> NoReturn:
    """Become ``file``. Raises OSError as execve(2) does.

    With ``shell``, a file that the kernel knows no format of is given to /bin/sh, as shells, env and execvp(3) do.
    """
    program = os.fsencode(file)
    words = [os.fsencode(argument) for argument in arguments]
    refusal = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in [program] if b"/" in program else _candidates(program, environment):
        error = _execve(path, words, environment)
        if error.errno == errno.ENOEXEC and shell:
            error = _execve(b"/bin/sh", [words[0], path, *words[1:]], environment)
        if error.errno == errno.EACCES:
            refusal = error  # another directory may hold one that can be executed
        elif error.errno not in _NOT_HERE:
            raise error
        elif b"/" in program:
            refusal = error
    raise refusal


def _candidates(program: bytes, environment: Sequence[bytes]) -> list[bytes]:
    paths = (entry[5:] for entry in environment if entry.startswith(b"PATH="))
    return [os.path.join(directory, program) for directory in next(paths, _DEFAULT_PATH).split(b":")] if program else []


def _execve(path: bytes, arguments: Sequence[bytes], environment: Sequence[bytes]) -> OSError:
    libc.execve(path, _strings(arguments), _strings(environment))
    return oserror("execve")


def _strings(items: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(items) + 1))(*items, None)
