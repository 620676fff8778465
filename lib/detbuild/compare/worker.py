# SPDX-License-Identifier: MIT
"""A process that takes pairs of files apart, one after the other, within limits that it sets itself.

Speaks JSON, a line a message: in comes a task, out go ``change`` and ``inner`` as they are found, and an ``end``. The
process that started it watches the time, and ends it with all that it started. Where that one is killed, this one goes
with it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from detbuild.compare.change import Change, Facts, Inner
from detbuild.compare.inspect import Inspector
from detbuild.linux.libc import prctl

PR_SET_PDEATHSIG = 1
GRACE = 5  # seconds over its time that a task has before the worker's own clock ends it
OUT_OF_MEMORY = ("Cannot allocate", "Can't allocate", "Out of memory", "No memory", "std::bad_alloc")


def main(parent: int) -> None:
    """`parent` is the process that watches the time."""
    prctl("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before the kernel was asked to tell of it
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for line in sys.stdin:
        task = json.loads(line)
        # The kernel tells of the thread that started this process, and who watches may be stopped or stuck.
        signal.alarm(int(task["seconds"]) + GRACE)
        memory = int(task["memory"])
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        end = _worked(task)
        signal.alarm(0)
        _send(end)


def _worked(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task; returns its end."""
    short_of_memory = False

    def emit(change: Change) -> None:
        nonlocal short_of_memory
        short_of_memory = short_of_memory or any(sign in change.line_a for sign in OUT_OF_MEMORY)
        sent = change.bounded()
        _send({"change": sent.to_dict() | {"before": sent.before}})

    def note(inner: Inner) -> None:
        _send({"inner": [list(inner.where), inner.digest_a, inner.digest_b]})

    try:
        facts = Facts(**task["facts"])
        Inspector(facts, Path(task["scratch"]), emit, note).pair(Path(task["a"]), Path(task["b"]))
    except MemoryError:
        return {"end": "over-memory"}
    except OSError as error:
        memory = error.errno == 12
        return {"end": "over-memory" if memory else "failed", "detail": str(error)}
    except RecursionError:
        return {"end": "failed", "detail": "it is nested too deep"}
    except Exception as error:
        # Hostile data finds ways into every parser; one pair's trouble is nobody else's.
        return {"end": "failed", "detail": f"{type(error).__name__}: {error}"}
    return {"end": "over-memory" if short_of_memory else "complete"}


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
