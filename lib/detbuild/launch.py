# SPDX-License-Identifier: MIT
"""The process that becomes a session's command: it opens the session in itself, then executes the command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Collection

from detbuild import protocol, surroundings
from detbuild.engine import select
from detbuild.engine.base import Terms
from detbuild.errors import DetbuildError
from detbuild.linux import execute
from detbuild.policy import Policy

# What Python changes for itself at its start.
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def become(
    terms: Terms,
    engine: str,
    peer: socket.socket,
    executable: str,
    command: list[str],
    *,
    shell: bool = False,
    ignored: Collection[int] = (),
) -> None:
    """Open a session and execute ``command`` in it, with this process's own environment and descriptors.

    The environment and the umask are ``surroundings``' own where the policy has the rule identity.

    ``peer`` hears of the session ("session", with the connection's descriptor) and then sees the end of the
    stream as the command starts; or hears why not ("error", or "exec" with an errno). Returns only then.
    ``shell`` is as for ``execute``; of the signals that Python ignores, ``ignored`` stay so for the command.
    """
    try:
        environment = execute.own_environment()  # before the session, which would have it on record
        if Policy.parse(terms.policy).fixes("identity"):
            os.umask(surroundings.UMASK)
            environment = surroundings.fixed(environment)
        connection = select.choose(engine, terms.policy).open(terms)
        fds = [connection.peer.fileno()] if connection.peer else []
        protocol.send(peer, "session", fds=fds, pid=connection.pid, started=connection.started)
        for number in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        execute.execute(executable, command, environment, shell)
    except DetbuildError as error:
        protocol.send(peer, "error", refused=error.refused, cause=error.cause, remedy=error.remedy)
    except OSError as error:
        protocol.send(peer, "exec", errno=error.errno, name=executable)


def occupy_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming a socket of ours where they came closed; the command gets them closed too."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def main() -> int:
    """``-c ... SPEC COMMAND [ARGUMENT ...]``: the helper of ``session.Popen``."""
    spec = json.loads(sys.argv[1])
    occupy_standard_descriptors()
    with socket.socket(fileno=spec["fd"]) as peer:
        peer.set_inheritable(False)
        with contextlib.suppress(BrokenPipeError):
            terms = Terms(**spec["terms"])
            become(terms, spec["engine"], peer, spec["executable"], sys.argv[2:], ignored=spec["ignored"])
    return 125
