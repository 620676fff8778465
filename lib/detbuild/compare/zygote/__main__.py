# SPDX-License-Identifier: MIT
"""diffoscope, imported once and forked for each pair: run by diffoscope's interpreter as a directory, so that nothing
of this library is on its path.

Says ``ready``, and then, line by line in JSON: in comes a pair to compare, out goes the process id of what compares it,
which leads a session of its own by then, or -1 where the kernel forks no more; in comes such a process id, out goes the
status it ended with, as waitpid(2) has it. Ends with its input, and what it forked ends with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from typing import Any

from diffoscope.comparators import ComparatorManager
from diffoscope.config import Config
from diffoscope.main import main

PR_SET_PDEATHSIG = 1


def serve() -> None:
    libc = ctypes.CDLL(None)
    ComparatorManager()  # imports them all
    gc.collect()
    gc.freeze()  # what is shared stays shared
    own = os.getpid()
    _say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            _say(os.waitpid(request, 0)[1])
            continue
        try:
            child = os.fork()
        except OSError:
            _say(-1)
            continue
        if not child:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == own:
                _compare(request)
            os._exit(2)


def _compare(pair: dict[str, Any]) -> None:
    """In the child. Does not return."""
    status = 2
    try:
        os.setsid()
        _say(os.getpid())
        _settle(pair)
        sys.argv = pair["command"]
        Config().reset()  # its clock runs from here, as it does in a process of its own
        main(sys.argv[1:])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _settle(pair: dict[str, Any]) -> None:
    """What a shell would set up before it executes a program."""
    null = os.open(os.devnull, os.O_RDWR)
    messages = os.open(pair["messages"], os.O_WRONLY | os.O_APPEND)
    for descriptor, number in ((null, 0), (null, 1), (messages, 2)):
        os.dup2(descriptor, number)
    os.closerange(3, max(null, messages) + 1)
    os.chdir(pair["directory"])
    os.environ["TMPDIR"] = pair["temporary"]
    tempfile.tempdir = None
    with open("/proc/self/statm", encoding="ascii") as stream:
        if int(stream.read().split()[0]) * resource.getpagesize() > pair["memory"]:
            raise MemoryError("importing diffoscope takes more than that")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (pair["seconds"], pair["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (pair["memory"], pair["memory"]))


def _say(word: object) -> None:
    os.write(1, f"{word}\n".encode("ascii"))


serve()
