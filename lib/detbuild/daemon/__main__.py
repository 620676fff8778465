# SPDX-License-Identifier: MIT
"""``detbuildd``: load the BPF programs, listen, and serve until SIGTERM.

Exit codes: 0 after a clean stop, 1 where it cannot start, 2 for a command line that cannot be understood.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from detbuild import __version__
from detbuild.daemon import config as configuration
from detbuild.daemon import listen, log, machine
from detbuild.daemon.config import Config, Settings
from detbuild.daemon.log import Log
from detbuild.daemon.server import Server
from detbuild.daemon.sessions import Kernel, Sessions
from detbuild.errors import DaemonError, DetbuildError

Load = Callable[[Settings], Kernel]


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        config = configuration.load(args.config or configuration.PATH, required=args.config is not None)
        machine.check()
        if args.foreground or "LISTEN_PID" in os.environ or "NOTIFY_SOCKET" in os.environ:
            run(config, load, log.to_stderr, lambda: _notify("READY=1"))
            return 0
        return _in_background(config)
    except DetbuildError as error:
        print(f"detbuildd: {error}", file=sys.stderr)
        return 1


def load(settings: Settings) -> Kernel:
    """The BPF programs, compiled and attached, or adopted from an earlier daemon. Raises DetbuildError."""
    from detbuild.daemon.generations import Generations

    return Generations.load(settings)


def run(config: Config, load: Load, write: Log, ready: Callable[[], None] = lambda: None) -> None:
    """The daemon's life, up to SIGTERM or SIGINT. Raises DetbuildError where it cannot begin.

    ``ready`` is called once clients can connect.
    """
    stop, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _raise_limit()
    locked = listen.lock(config)
    try:
        listener = listen.activated()
        kernel = load(config.settings)
        try:
            if kernel.held_by(os.getpid()) is not None:
                raise DaemonError(
                    "the daemon was started inside a session, whose clock is not its own", remedy="start it outside"
                )
            sessions = Sessions(kernel, config.limits, Path(config.state), write)
            sessions.adopt()
            made = listener is None
            with listener or listen.own(config) as listening:
                write(f"detbuild {__version__} serves {listening.getsockname()}, as process {os.getpid()}")
                ready()
                Server(listening, sessions, config.limits, write).serve(stop.fileno())
            if made:
                listen.remove(config)
            if sessions.held:
                write(f"stops; {len(sessions.held)} sessions go on, and wait for the next daemon")
        finally:
            kernel.settle()
            if not kernel.sessions():
                kernel.unload()
        write("stopped")
    finally:
        signal.set_wakeup_fd(-1)
        os.close(locked)
        stop.close()
        waker.close()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="detbuildd", description="The root daemon of detbuild's eBPF engine.")
    parser.add_argument("--foreground", action="store_true", help="stay, and write the log to standard error")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"instead of {configuration.PATH}")
    parser.add_argument("--version", action="version", version=f"detbuild {__version__}")
    return parser.parse_args(argv)


def _raise_limit() -> None:
    """Each session takes descriptors, and each connection one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _notify(state: str) -> None:
    """sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def _in_background(config: Config) -> int:
    """Returns once the daemon serves, or cannot: what it says until then comes to this terminal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            serves = pipe.read()
        if serves:
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1
    os.close(reader)
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stdio in (0, 1, 2):
            os.dup2(null, stdio)
        os.close(null)
        os.write(writer, b"y")
        os.close(writer)

    run(config, load, log.to_syslog, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
