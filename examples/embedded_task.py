"""One BitBake task in a forked child of its own, which is what bitbake-worker does for the embedded engine.

The child may install a seccomp filter in itself or be traced; it ends with its task. It sends its events and
log records back through a pipe. A process that the task left behind may hold that pipe open for ever, so it
is the child's death that ends a task, not the end of the pipe.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import selectors
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bb.build
import bb.data
import bb.event
import bb.parse
import bb.utils

POLL = 0.05  # seconds; only how late the end of a task whose pipe stays open is noticed


@dataclass(frozen=True)
class Order:
    """What the worker is told of a task."""

    mcfn: str
    task: str
    taskhash: str
    unihash: str
    depdata: dict[str, Any]
    config: Any  # base datastore of the task's multiconfig
    parse: Callable[[], Any]


class Child:
    """A running task, and after ``ended`` reported it, what became of it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid, self.pipe = pid, pipe
        self.exit_code = 0
        self.messages: tuple[str, ...] = ()
        self.events: tuple[Any, ...] = ()
        self.logfile = ""
        self._received = bytearray()

    def read(self) -> bool:
        """Take what is there; False at the end of the pipe."""
        try:
            while data := os.read(self.pipe, 65536):
                self._received += data
        except BlockingIOError:
            return True
        return False

    def finish(self, status: int) -> None:
        self.read()
        os.close(self.pipe)
        self.exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        messages, events, stream = list[str](), list[Any](), io.BytesIO(self._received)
        while stream.tell() < len(self._received):
            try:
                item = pickle.load(stream)
            except (EOFError, pickle.UnpicklingError):  # killed while it wrote
                messages.append("ERROR: the task's last event is incomplete")
                break
            if isinstance(item, logging.LogRecord):
                messages.append(f"{item.levelname}: {item.getMessage()}")
                continue
            events.append(item)
            if isinstance(item, bb.build.TaskStarted):
                self.logfile = item.logfile
        self.messages, self.events = tuple(messages), tuple(events)


def start(order: Order, selector: selectors.BaseSelector) -> Child:
    """Fork; the child never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            code = _run(order, writer)
        except BaseException:
            # Nothing may unwind into the caller's copy of this stack: pytest would go on in two processes.
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    os.set_blocking(reader, False)
    child = Child(pid, reader)
    selector.register(reader, selectors.EVENT_READ, child)
    return child


def ended(selector: selectors.BaseSelector, running: list[Child]) -> list[Child]:
    """Wait until at least one task has ended or POLL seconds passed."""
    for key, _ in selector.select(POLL):
        if not key.data.read():
            selector.unregister(key.fileobj)
    over = []
    for child in running:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            if child.pipe in selector.get_map():
                selector.unregister(child.pipe)
            child.finish(status)
            over.append(child)
    return over


def _run(order: Order, writer: int) -> int:
    bb.utils.signal_on_parent_exit("SIGTERM")
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    _no_terminal()
    pipe = os.fdopen(writer, "wb", buffering=0)
    bb.event.worker_pid = os.getpid()
    bb.event.worker_fire = lambda event, d: _send(pipe, event)
    for handler in list(bb.build.bblogger.handlers):
        bb.build.bblogger.removeHandler(handler)
    records = bb.event.LogHandler()
    records.setLevel(bb.msg.BBLogFormatter.NOTE)
    bb.build.bblogger.addHandler(records)
    order.config.setVar("BB_WORKERCONTEXT", "1")
    order.config.setVar("BB_TASKDEPDATA", order.depdata)
    order.config.setVar("BB_CURRENTTASK", order.task.replace("do_", ""))
    d = order.parse()
    d.setVar("BB_TASKHASH", order.taskhash)
    d.setVar("BB_UNIHASH", order.unihash)
    bb.parse.siggen.setup_datacache_from_datastore(order.mcfn, d)
    bb.utils.set_process_name(f"{d.getVar('PN')}:{order.task.replace('do_', '')}")
    if not bb.utils.to_boolean(d.getVarFlag(order.task, "network")) and bb.utils.is_local_uid(os.getuid()):
        bb.utils.disable_network(os.getuid(), os.getgid())
    _set_environment(order.task, d)
    return int(bb.build.exec_task(order.mcfn, order.task, d))


def _send(pipe: io.FileIO, event: Any) -> None:
    data = memoryview(pickle.dumps(event))
    while data:
        data = data[pipe.write(data) or 0 :]


def _terminate(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.killpg(0, signal.SIGTERM)
    sys.exit(1)


def _no_terminal() -> None:
    """The executor asks sys.stdin and its kin for their descriptors, which pytest's do not have."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", closefd=False) for n in range(3))


def _set_environment(task: str, d: Any) -> None:
    exports = list(bb.data.exported_vars(d))
    bb.utils.empty_environment()
    os.environ.update(exports)
    for name in (d.getVarFlag(task, "exports") or "").split():
        d.setVarFlag(name, "export", "1")
        value = d.getVar(name)
        if value is not None:
            os.environ[name] = value
