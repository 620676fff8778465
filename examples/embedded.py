"""Real BitBake in one process: its parser, dependency resolver and task executor, without server or OE-Core.

    from embedded import Build

    build = Build("/some/build", ["examples/meta-quickstart", "."], 'INHERIT += "detbuild"')
    result = build.run("hello")              # every task of hello and of what it depends on
    assert result.exit_code == 0, result.failed
    result["hello:do_compile"].log           # text of the task's log
    build.parse("hello").getVar("WORKDIR")   # the recipe's datastore, BitBake's d
    build.hashes("hello")["hello:do_compile"]

BitBake comes from the registry package ``bitbake-setup``, which carries the library ``bb`` but not
``bitbake``, ``bitbake-worker``, ``hashserv`` or ``prserv``. This module adds what those do around a task:

- layers, .bbappend files, BBCLASSEXTEND variants, multiconfig, DEPENDS, all kinds of task dependencies and
  signatures are BitBake's own (``bb.cooker``, ``bb.taskdata``, ``bb.runqueue``);
- each task is a forked child that leads a session of its own, loses the network and the environment, parses
  its recipe again and calls ``bb.build.exec_task``, as bitbake-worker does: it may filter or trace itself;
- class handlers see ConfigParsed, RecipeParsed, BuildStarted, runQueueTaskStarted, runQueueTaskCompleted,
  runQueueTaskFailed and BuildCompleted in this process, and the task events in the task's.

Not there: setscene tasks and sstate, pseudo (a task with ``[fakeroot]`` is refused), hash equivalence, PR
service, and a cache of parsed recipes. One configuration at a time: BitBake keeps its state in modules, so a
new ``Build`` replaces the one before, which then refuses to work. What ``addpylib`` imports stays imported; who
changes such a library wants a new process.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import sys
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _stand_in(*names: str) -> None:
    """bb imports modules of BitBake's lib directory that the package leaves out; nothing here calls them."""
    for name in names:
        sys.modules.setdefault(name, types.ModuleType(name))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])


_stand_in("hashserv", "hashserv.client", "prserv", "prserv.serv")

import bb.cache  # noqa: E402  (after the stand-ins)
import bb.cooker  # noqa: E402
import bb.cookerdata  # noqa: E402
import bb.event  # noqa: E402
import bb.parse  # noqa: E402
import bb.runqueue  # noqa: E402
import bb.taskdata  # noqa: E402
import embedded_layers  # noqa: E402
import embedded_task  # noqa: E402


class Refused(Exception):
    """BitBake will not have this metadata; the text is what it said."""


@dataclass(frozen=True)
class TaskRun:
    """One task that ran. The name is ``PN:do_task``; the exit code is 128 + N after death by signal N."""

    name: str
    exit_code: int
    log: str
    messages: tuple[str, ...]  # "LEVEL: text" for what bb.note and louder said
    events: tuple[Any, ...]  # BitBake events fired in the task's process, log records left out


@dataclass(frozen=True)
class Result:
    """What ``Build.run`` did. ``tasks`` in the order in which they ended; ``skipped`` had a valid stamp."""

    exit_code: int
    tasks: tuple[TaskRun, ...]
    skipped: tuple[str, ...]
    messages: tuple[str, ...]  # of the cooker's side: parsing and class handlers

    def __getitem__(self, name: str) -> TaskRun:
        return next(task for task in self.tasks if task.name == name)

    @property
    def failed(self) -> tuple[TaskRun, ...]:
        return tuple(task for task in self.tasks if task.exit_code)


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(bb.msg.BBLogFormatter.NOTE)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


@dataclass
class _Plan:
    """BitBake's run queue, computed and not started."""

    data: Any  # bb.runqueue.RunQueueData
    queue: Any  # what runqueue events ask for hashes
    stats: Any
    waiting: set[str]
    done: set[str] = field(default_factory=set)

    def next(self) -> str | None:
        """Take a task whose dependencies are done; None while there is none."""
        entries = self.data.runtaskentries
        ready = min((tid for tid in self.waiting if entries[tid].depends <= self.done), default=None)
        self.waiting.discard(ready or "")
        return ready


class Build:
    """A build directory over layers, parsed at construction.

    ``top`` is TOPDIR, and is made if it is not there. The first layer with a bitbake.conf plays OE-Core's part.
    ``conf`` is local.conf's text and is read only if that bitbake.conf includes it. ``environment`` is what
    BitBake would have inherited, else this process's. Raises Refused for metadata that BitBake refuses, with
    what BitBake said.

    bblayers.conf and local.conf lie in a temporary directory that goes with this process.
    """

    _current: Build | None = None

    def __init__(
        self,
        top: str | os.PathLike[str],
        layers: Iterable[str | os.PathLike[str]],
        conf: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.top = Path(top).resolve()
        self.top.mkdir(parents=True, exist_ok=True)
        self.layers = [embedded_layers.linked(Path(layer).resolve()) for layer in layers]
        configuration = embedded_layers.configure(self.top, self.layers, conf)
        self._log = _Messages()
        self._take_over()
        variables = dict(os.environ if environment is None else environment)
        variables["BBPATH"] = str(configuration)
        config = types.SimpleNamespace(prefile=[], postfile=[], tracking=False, skip_fragments=True, env=variables)
        self._caches: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        try:
            self.builder: Any = bb.cookerdata.CookerDataBuilder(config, False)
            self.builder.parseBaseConfiguration()
            self._name_build()
            self._parse_recipes()
        except (bb.BBHandledException, bb.parse.ParseError, bb.data_smart.ExpansionError) as error:
            raise Refused("\n".join([*self.messages, str(error)])) from error

    @property
    def data(self) -> Any:
        """The base configuration's datastore."""
        self._still_mine()
        return self.builder.data

    @property
    def messages(self) -> tuple[str, ...]:
        """What bb.note and louder said on the cooker's side, as ``LEVEL: text``."""
        return tuple(self._log.lines)

    @property
    def recipes(self) -> dict[str, str]:
        """PN (``mc:NAME:PN`` in a multiconfig) -> BitBake's name of the file (``virtual:native:/...``)."""
        return {
            (f"mc:{mc}:{pn}" if mc else pn): mcfn
            for mc, cache in self._caches.items()
            for mcfn, pn in cache.pkg_fn.items()
        }

    def parse(self, recipe: str) -> Any:
        """The datastore of a recipe, by PN, parsed now. Raises KeyError for a recipe that does not exist."""
        self._still_mine()
        return self._parse_file(self.recipes[recipe])

    def hashes(self, *targets: str, task: str = "do_build") -> dict[str, str]:
        """``PN:do_task`` -> task hash, of everything that building the targets takes."""
        plan = self._plan(targets, task)
        return {self._name(tid): plan.data.get_task_hash(tid) for tid in plan.data.runtaskentries}

    def basehashes(self, recipe: str) -> dict[str, str]:
        """``do_task`` -> basehash, which covers a task's variables and functions but no dependency."""
        return dict(self.parse(recipe).getVar("__siggen_basehashes", False))

    def run(
        self,
        *targets: str,
        task: str = "do_build",
        jobs: int = 1,
        force: bool = False,
        started: Callable[[str], None] = lambda _: None,
    ) -> Result:
        """Build targets (``PN`` or ``PN:do_task``) and what they depend on, ``jobs`` tasks at a time.

        A task whose stamp is valid is skipped, unless ``force``. After a failure nothing more is started.
        ``started`` is called with ``PN:do_task`` as each task starts. The exit code is 1 if a task failed.
        """
        plan = self._plan(targets, task)
        name, pns = self.data.getVar("BUILDNAME"), [f"{target}:{task}" for target in targets]
        bb.event.fire(bb.event.BuildStarted(name, pns), self.data)
        runs, skipped = self._execute(plan, jobs, force, started)
        failures = sum(1 for run in runs if run.exit_code)
        bb.event.fire(bb.event.BuildCompleted(len(plan.data.runtaskentries), name, pns, failures), self.data)
        return Result(1 if failures else 0, tuple(runs), tuple(skipped), self.messages)

    def _execute(
        self, plan: _Plan, jobs: int, force: bool, started: Callable[[str], None]
    ) -> tuple[list[TaskRun], list[str]]:
        runs: list[TaskRun] = []
        skipped: list[str] = []
        running: dict[embedded_task.Child, str] = {}
        with selectors.DefaultSelector() as selector:
            while True:
                failed = any(run.exit_code for run in runs)
                while not failed and len(running) < jobs and (tid := plan.next()):
                    if self._needs_nothing(tid, force):
                        plan.done.add(tid)
                        skipped.append(self._name(tid))
                        continue
                    started(self._name(tid))
                    running[self._start(plan, tid, selector)] = tid
                if not running:
                    return runs, skipped
                for child in embedded_task.ended(selector, list(running)):
                    tid = running.pop(child)
                    runs.append(self._finish(plan, tid, child))
                    plan.done.add(tid)

    def _name_build(self) -> None:
        now = time.gmtime()
        for name, form in (("BUILDNAME", "%Y%m%d%H%M%S"), ("DATE", "%Y%m%d"), ("TIME", "%H%M%S")):
            for data in self.builder.mcdata.values():
                data.setVar(name, time.strftime(form, now))

    def _take_over(self) -> None:
        if Build._current:
            logging.getLogger("BitBake").removeHandler(Build._current._log)
        Build._current = self
        logging.getLogger("BitBake").addHandler(self._log)
        # These caches are keyed by file name alone; a test that rewrites a recipe would see the old text.
        bb.parse.parse_py.BBHandler.cached_statements.clear()
        bb.parse.clear_cache()
        bb.build.reset_cache()
        bb.fetch2.urldata_cache.clear()

    def _still_mine(self) -> None:
        if Build._current is not self:
            raise RuntimeError(f"another Build has taken BitBake's modules over from {self.top}")

    def _parse_recipes(self) -> None:
        names = (self.builder.data.getVar("BBFILE_COLLECTIONS") or "").split()
        patterns = {name: self.builder.data.getVar(f"BBFILE_PATTERN_{name}") for name in names}
        priorities = [
            (
                name,
                pattern,
                re.compile(pattern),
                int(self.builder.data.getVar(f"BBFILE_PRIORITY_{name}") or 0),
            )
            for name, pattern in patterns.items()
            if pattern
        ]
        for mc, data in self.builder.mcdata.items():
            self._files[mc] = bb.cooker.CookerCollectFiles(priorities, mc)
            files = self._files[mc].collect_bbfiles(data, data)[0]
            self._caches[mc] = bb.cache.CacheData([bb.cache.CoreRecipeInfo, bb.cache.SiggenRecipeInfo])
            for file in files:
                self._parse_variants(mc, file)

    def _parse_variants(self, mc: str, file: str) -> None:
        appends = self._files[mc].get_file_appends(file)
        layer = self._files[mc].calc_bbfile_priority(file)
        for variant, d in self.builder.parseRecipeVariants(file, appends, mc=mc, layername=layer[2]).items():
            mcfn = bb.cache.realfn2virtual(file, variant, mc)
            info = bb.cache.CoreRecipeInfo(file, d)
            if info.skipped:
                continue
            self._caches[mc].add_from_recipeinfo(mcfn, [info, bb.cache.SiggenRecipeInfo(file, d)])
            self._caches[mc].bbfile_priority[mcfn] = layer[0]

    def _parse_file(self, mcfn: str) -> Any:
        file, _, mc = bb.cache.virtualfn2realfn(mcfn)
        files = self._files[mc]
        return self.builder.parseRecipe(mcfn, files.get_file_appends(file), files.calc_bbfile_priority(file)[2])

    def _name(self, tid: str) -> str:
        mc, _, task, mcfn = bb.runqueue.split_tid_mcfn(tid)
        pn = self._caches[mc].pkg_fn[mcfn]
        return f"mc:{mc}:{pn}:{task}" if mc else f"{pn}:{task}"

    def _plan(self, targets: Iterable[str], task: str) -> _Plan:
        self._still_mine()
        taskdata = {mc: bb.taskdata.TaskData(True) for mc in self._caches}
        wanted = []
        for target in targets:
            mc, pn, name = _split_target(target, task)
            taskdata[mc].add_provider(self.builder.mcdata[mc], self._caches[mc], pn)
            wanted.append([mc, pn, name, taskdata[mc].build_targets[pn][0]])
        for mc, entries in taskdata.items():
            entries.add_unresolved(self.builder.mcdata[mc], self._caches[mc])
        options = types.SimpleNamespace(
            runall=[], runonly=[], force=False, invalidate_stamp=None, nosetscene=True, dump_signatures=[]
        )
        cooker = types.SimpleNamespace(configuration=options, data=self.builder.data, databuilder=self.builder)
        queue = types.SimpleNamespace(cooker=cooker)
        data = bb.runqueue.RunQueueData(queue, cooker, self.builder.data, self._caches, taskdata, wanted)
        queue.rqdata = data
        data.prepare()
        stats = bb.runqueue.RunQueueStats(len(data.runtaskentries), 0)
        return _Plan(data, queue, stats, set(data.runtaskentries))

    def _needs_nothing(self, tid: str, force: bool) -> bool:
        mc, _, task, mcfn = bb.runqueue.split_tid_mcfn(tid)
        flags = self._caches[mc].task_deps[mcfn]
        if task in flags.get("fakeroot", {}):
            raise RuntimeError(f"{self._name(tid)} wants pseudo, which the embedded BitBake does not have")
        if task in flags.get("noexec", {}):
            bb.build.make_stamp_mcfn(task, mcfn)
            return True
        if force or task in flags.get("nostamp", {}):
            return False
        return os.path.exists(bb.parse.siggen.stampfile_mcfn(task, mcfn))

    def _start(self, plan: _Plan, tid: str, selector: selectors.BaseSelector) -> embedded_task.Child:
        mc, _, task, mcfn = bb.runqueue.split_tid_mcfn(tid)
        plan.stats.taskActive()
        bb.event.fire(bb.runqueue.runQueueTaskStarted(tid, plan.stats, plan.queue), self.data)
        order = embedded_task.Order(
            mcfn=mcfn,
            task=task,
            taskhash=plan.data.get_task_hash(tid),
            unihash=plan.data.get_task_unihash(tid),
            depdata=self._depdata(plan, tid),
            config=self.builder.mcdata[mc],
            parse=lambda: self._parse_file(mcfn),
        )
        return embedded_task.start(order, selector)

    def _depdata(self, plan: _Plan, tid: str) -> dict[str, Any]:
        """BB_TASKDEPDATA, which classes such as staging walk: the task and all that it depends on."""
        entries, found, todo = plan.data.runtaskentries, dict[str, Any](), [tid]
        while todo:
            one = todo.pop()
            mc, fn, task, mcfn = bb.runqueue.split_tid_mcfn(one)
            cache, entry = self._caches[mc], entries[one]
            found[one] = bb.TaskData(
                pn=cache.pkg_fn[mcfn],
                taskname=task,
                fn=fn,
                deps=set(entry.depends),
                provides=cache.fn_provides[mcfn],
                taskhash=entry.hash,
                unihash=entry.unihash,
                hashfn=cache.hashfn[mcfn],
                taskhash_deps=entry.taskhash_deps,
            )
            todo += [dep for dep in entry.depends if dep not in found]
        return found

    def _finish(self, plan: _Plan, tid: str, child: embedded_task.Child) -> TaskRun:
        if child.exit_code:
            plan.stats.taskFailed()
            event = bb.runqueue.runQueueTaskFailed(tid, plan.stats, child.exit_code, plan.queue)
        else:
            plan.stats.taskCompleted()
            event = bb.runqueue.runQueueTaskCompleted(tid, plan.stats, plan.queue)
        bb.event.fire(event, self.data)
        log = Path(child.logfile) if child.logfile else None
        text = log.read_text(errors="replace") if log and log.exists() else ""
        return TaskRun(self._name(tid), child.exit_code, text, child.messages, child.events)


def _split_target(target: str, task: str) -> tuple[str, str, str]:
    """``[mc:NAME:]PN[:do_task]`` -> multiconfig, PN, task."""
    mc = ""
    if target.startswith("mc:"):
        _, mc, target = target.split(":", 2)
    pn, _, name = target.partition(":do_")
    return mc, pn, f"do_{name}" if name else task
