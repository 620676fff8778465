# SPDX-License-Identifier: MIT
"""A BitBake task's session: opened and closed on the task's events, in the task's own process.

``handle`` gets the events: ``prepare`` runs for every recipe that is parsed, ``started`` and ``ended`` in every task,
``observe`` in the server.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import bb
import bb.build
import bb.event
import bb.parse
import bb.utils

from detbuild import audits, exposure, policy, recipe, rulefile, session, surroundings
from detbuild.audit import FIXED, LEAKED, Audit, Gap
from detbuild.errors import DetbuildError, EngineDied, SessionError
from detbuild.marks import Mark, Marks
from detbuild.program import Program

_EPOCH_TASK = "do_deploy_source_date_epoch"
_STAMP = "create_source_date_epoch_stamp"
_HASHED = " DETBUILD_POLICY DETBUILD_RULES_VERSION DETBUILD_STATED_EPOCH"

# At most one: a process that filtered itself cannot take that back.
_attached: list[session.Attached] = []


def handle(e: Any) -> None:
    """Every event that the class asks for, but for ConfigParsed."""
    if isinstance(e, bb.event.RecipeTaskPreProcess):
        prepare(e.data)
    elif isinstance(e, bb.build.TaskStarted):
        started(e)
    elif isinstance(e, bb.build.TaskBase):
        ended(e)
    else:
        observe(e)


def prepare(d: Any) -> None:
    """Once a recipe's list of tasks is final: signatures of its sessions, and its epoch where OE-Core loses it.

    Runs for every recipe that is parsed, so each look into ``d`` counts.
    """
    if not _enabled(d):
        d.setVar(_STAMP, d.getVar("detbuild_leave_stamp", False))
        d.setVar("detbuild_restore_epoch", "    return\n")
        return
    # A setscene task waits for nothing.
    waits = {
        task: d.getVarFlag(task, "deps", False) or []
        for task in d.getVar("__BBTASKS", False) or []
        if not task.endswith("_setscene")
    }
    if d.getVar("DETBUILD_POLICY") != "time":
        _hash_policy(d)
    hashed = _HASHED
    if d.getVar("DETBUILD_RULES"):
        hashed += _hash_rules(d)
    if stated := recipe.stated(d):
        # SOURCE_DATE_EPOCH itself is in BB_BASEHASH_IGNORE_VARS, for OE-Core's value is known after parsing alone.
        d.setVar("DETBUILD_STATED_EPOCH", stated)
    for task in waits.keys() & d.getVar("DETBUILD_TASKS").split():
        if not _left_out(d, task):
            d.appendVarFlag(task, "vardeps", hashed)
    if _EPOCH_TASK not in waits:
        return
    if "do_unpack" not in waits:
        _stamp_without_unpack(d)
    elif "do_patch" not in waits and "do_unpack" not in waits[_EPOCH_TASK]:
        # externalsrc: it was do_patch that kept the two in order.
        waits[_EPOCH_TASK] = [*waits[_EPOCH_TASK], "do_unpack"]
        d.setVarFlag(_EPOCH_TASK, "deps", waits[_EPOCH_TASK])
    _wait_for_epoch(d, waits)


def _enabled(d: Any) -> bool:
    return bool(bb.utils.to_boolean(d.getVar("DETBUILD_ENABLED")))


def _hash_policy(d: Any) -> None:
    """All spellings of one policy are one in a signature."""
    try:
        d.setVarFlag("DETBUILD_POLICY", "vardepvalue", str(policy.Policy.parse(d.getVar("DETBUILD_POLICY") or "")))
    except DetbuildError as error:
        bb.fatal(f"DETBUILD_POLICY: {error}")


def _hash_rules(d: Any) -> str:
    for path in rulefile.files(d.getVar("DETBUILD_RULES")):
        bb.parse.mark_dependency(d, path)
    try:
        d.setVarFlag("DETBUILD_RULES", "vardepvalue", rulefile.to_json(_rules(d)))
    except DetbuildError as error:
        bb.fatal(str(error))
    return " DETBUILD_RULES"


def _stamp_without_unpack(d: Any) -> None:
    """Shared sources: another recipe unpacks them, and this one waits for that in do_configure or do_patch."""
    others = [
        entry.rpartition(":")
        for task in ("do_configure", "do_patch")
        for entry in (d.getVarFlag(task, "depends") or "").split()
    ]
    unpacked = ("do_unpack", "do_patch", "do_preconfigure")
    sources = sorted({recipe for recipe, _, task in others if task in unpacked})
    own = (d.getVarFlag(_EPOCH_TASK, "depends") or "").split()
    if any(entry.endswith(":" + _EPOCH_TASK) for entry in own):
        return
    for source in sources:
        d.appendVarFlag(_EPOCH_TASK, "depends", f" {source}:{_EPOCH_TASK}")
    if _STAMP not in (d.getVarFlag(_EPOCH_TASK, "prefuncs") or "").split():
        d.prependVarFlag(_EPOCH_TASK, "prefuncs", _STAMP + " ")


def _wait_for_epoch(d: Any, waits: dict[str, list[str]]) -> None:
    """BitBake restores the epoch only for tasks that ask for it themselves.

    A task behind one that sstate can replace runs without do_configure, and with it without the epoch.
    """
    replaced = set((d.getVar("SSTATETASKS") or "").split()) - {_EPOCH_TASK}
    before = _before(waits, _EPOCH_TASK)
    for task, direct in waits.items():
        if task in before or _EPOCH_TASK in direct or replaced.isdisjoint(direct):
            continue
        if not d.getVarFlag(task, "noexec"):
            # A new list: BitBake's copies of a datastore share the old one.
            d.setVarFlag(task, "deps", [*direct, _EPOCH_TASK])


def _before(waits: dict[str, list[str]], task: str) -> set[str]:
    """A task, and every task of the same recipe that it waits for."""
    found, todo = {task}, [task]
    while todo:
        new = set(waits.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def started(e: Any) -> None:
    """Open the session of a task that wants one, and keep out of sstate what a degraded one spoilt."""
    d, task = e.data, e.getTask()
    if task.endswith("_setscene"):
        return
    marks = Marks(d.getVar("DETBUILD_STATE"))
    marks.clear(_tid(d, task))
    _record(d, task).unlink(missing_ok=True)
    _collected(d, task).path.unlink(missing_ok=True)
    if _in_sstate(d, task):
        _keep_from_sstate(d, marks)
    if not _enabled(d):
        return
    if task not in d.getVar("DETBUILD_TASKS").split():
        if _only_observed(d, task):
            _open_to_observe(d)
    elif why := _left_out(d, task):
        bb.warn(f"{task} runs outside a session: {why}")
    else:
        _open(e, marks)


def _left_out(d: Any, task: str) -> str:
    """Why one of DETBUILD_TASKS gets no session all the same, with what to do; "" where it gets one."""
    if _in_sstate(d, task):
        return "it is in SSTATETASKS. Take it out of DETBUILD_TASKS"
    if bb.utils.to_boolean(d.getVarFlag(task, "network")) and task not in d.getVar("DETBUILD_NETWORK_TASKS").split():
        return (
            'it has [network] = "1", and certificates need the real time. '
            "If it needs none, add it to DETBUILD_NETWORK_TASKS"
        )
    return ""


def _in_sstate(d: Any, task: str) -> bool:
    return task in (d.getVar("SSTATETASKS") or "").split()


def _only_observed(d: Any, task: str) -> bool:
    observed = task in d.getVar("DETBUILD_OBSERVED_TASKS").split()
    return observed and task not in d.getVar("DETBUILD_TASKS").split()


def _open_to_observe(d: Any) -> None:
    """Nothing is fixed, so nothing is lost where it cannot be opened, and no mark is needed."""
    try:
        _attached.append(_attach(d, "observe"))
    except (DetbuildError, OSError) as error:
        bb.warn(f"detbuild: not observed: {error}")
    else:
        bb.note(f"detbuild: session that only observes, engine {_attached[-1].engine}")


def _attach(d: Any, policy_name: str) -> session.Attached:
    epoch, rules = _epoch(d), [row.to_dict() for row in _rules(d)]
    with _daemon(d):
        return session.attach(epoch, policy_name, d.getVar("DETBUILD_ENGINE"), rules, seed=d.getVar("PN"))


def _open(e: Any, marks: Marks) -> None:
    d, task = e.data, e.getTask()
    try:
        attached = _attach(d, d.getVar("DETBUILD_POLICY"))
    except (SessionError, OSError) as error:  # OSError: no room for one more process, say
        _degrade(e, marks, (str(error),))
    except DetbuildError as error:
        _fail(e, str(error))
    else:
        _attached.append(attached)
        marks.open(_mark(d, task, engine=attached.engine, engine_pid=attached.engine_pid))
        if policy.Policy.parse(d.getVar("DETBUILD_POLICY")).fixes("identity"):
            _rename_user(d)
        bb.note(f"detbuild: session at epoch {_epoch(d)}, engine {attached.engine}")


def _rename_user(d: Any) -> None:
    """BitBake's tasks have its caller's names; the other surroundings are the same for all of them."""
    for name in surroundings.USER_NAMES:
        if d.getVar(name) and d.getVarFlag(name, "export"):
            d.setVar(name, surroundings.user())
        if name in os.environ:
            os.environ[name] = surroundings.user()


@contextlib.contextmanager
def _daemon(d: Any) -> Iterator[None]:
    """Engines find their daemon by the environment, which is the task's programs' own again afterwards."""
    former = os.environ.get("DETBUILD_SOCKET")
    os.environ["DETBUILD_SOCKET"] = d.getVar("DETBUILD_SOCKET")
    try:
        yield
    finally:
        if former is None:
            del os.environ["DETBUILD_SOCKET"]
        else:
            os.environ["DETBUILD_SOCKET"] = former


def _rules(d: Any) -> tuple[Program, ...]:
    """Raises PolicyError for what is no rule, or cannot be read here."""
    return rulefile.parse(d.getVar("DETBUILD_RULES") or "")


def _epoch(d: Any) -> int:
    value = d.getVar("SOURCE_DATE_EPOCH") or ""
    try:
        return int(value)
    except ValueError:
        raise DetbuildError(
            f"SOURCE_DATE_EPOCH is {value!r}, which is no number of seconds",
            cause="the recipe or the configuration sets it",
            remedy='set a number, or DETBUILD_ENABLED = "0" for this recipe',
        ) from None


def ended(e: Any) -> None:
    """Close the session, if this task has one, and write its record. The task's log is no longer open."""
    if not _attached:
        return
    d, task = e.data, e.getTask()
    succeeded = isinstance(e, bb.build.TaskSucceeded)
    marks = Marks(d.getVar("DETBUILD_STATE"))
    marks.close(_tid(d, task))
    attached = _attached.pop()
    died = ""
    try:
        audit = attached.close()
    except EngineDied as error:
        died = f"{task}: {error}"
        audit = Audit(attached.engine, gaps={Gap("engine died", "what the task read is not on record"): 1})
    audit.observed = _only_observed(d, task)
    _keep(d, task, audit)
    if died:
        if succeeded:
            _fail(e, died)
        bb.error(died)
        return
    try:
        _summarise(e, audit)
    except OSError as error:
        bb.warn(f"{task}: its log does not sum its audit up: {error}")
    if audit.degraded and succeeded and not audit.observed:
        _degrade(e, marks, tuple(f"{gap.kind}: {gap.detail}" for gap in sorted(audit.gaps)))


def _keep(d: Any, task: str, audit: Audit) -> None:
    """Both places get the record whole or not at all, and the task ends as it would have without."""
    places = {"beside its log": audits.Place(_record(d, task)), "in DETBUILD_AUDIT_DIR": _collected(d, task)}
    for name, place in places.items():
        try:
            audits.keep(place, audit)
        except OSError as error:
            bb.warn(f"{task}: its audit is not {name}: {error}")


def _summarise(e: Any, audit: Audit) -> None:
    if not e.logfile or not os.path.exists(e.logfile):
        return
    counts = exposure.kinds(audit)
    with open(e.logfile, "a", encoding="utf-8") as log:
        log.write(f"NOTE: detbuild: {counts[FIXED]} reads fixed, {counts[LEAKED]} leaked\n")
        log.writelines(f"NOTE: detbuild: {note}\n" for note in audit.outlived())
        if e.data.getVar("DETBUILD_LOG_LEVEL") == "reads":
            log.write(audit.to_text())


def _degrade(e: Any, marks: Marks, why: tuple[str, ...]) -> None:
    d, task = e.data, e.getTask()
    if bb.utils.to_boolean(d.getVar("DETBUILD_REQUIRE")):
        _fail(e, f'{task} did not run in a whole session, which DETBUILD_REQUIRE = "1" asks for: {"; ".join(why)}')
    bb.note(f"detbuild: degraded: {'; '.join(why)}")
    try:
        marks.degrade(_mark(d, task, why=why), d.getVar("T"))
    except OSError as error:
        _fail(e, f"{task} did not run in a whole session, and nothing would keep it out of sstate: {error}")


def _fail(e: Any, sentence: str) -> NoReturn:
    if isinstance(e, bb.build.TaskStarted):
        _announce(e)
        bb.fatal(sentence)
    # Past a task's own end BitBake takes an exception for a defect of its own: it prints a traceback, and the user
    # interface never hears that the task has ended.
    bb.error(sentence)
    bb.event.fire(bb.build.TaskFailed(e.getTask(), e._fn, e.logfile, e.data, True), e.data)
    sys.exit(1)


def _announce(e: Any) -> None:
    """Handlers run before the user interface hears of an event, and it cannot take the failure of a task that,
    for all it knows, never started."""
    event = copy.copy(e)
    del event.data
    if bb.event.worker_fire:
        bb.event.worker_fire(event, e.data)


def _keep_from_sstate(d: Any, marks: Marks) -> None:
    dependencies = d.getVar("BB_TASKDEPDATA", False) or {}
    for mark in marks.degraded():
        known = dependencies.get(mark.tid)
        if mark.file == d.getVar("BB_FILENAME") or (known and known.taskhash == mark.taskhash):
            bb.note(f"detbuild: not for sstate: the session of {mark.recipe}:{mark.task} was degraded")
            d.setVar("SSTATE_SKIP_CREATION", "1")
            return


def observe(e: Any) -> None:
    """In BitBake's server: what no task can say itself."""
    marks = Marks(e.data.getVar("DETBUILD_STATE"))
    if isinstance(e, bb.event.BuildStarted):
        marks.begin()
    elif isinstance(e, bb.event.BuildCompleted):
        _report(e.data, marks.report())
    else:
        mark = marks.close(e.taskid)
        if mark:
            bb.error(mark.killed(e.exitcode))


def _report(d: Any, marks: list[Mark]) -> None:
    if not marks:
        return
    recipes = sorted({mark.recipe for mark in marks})
    earlier = sum(mark.build != d.getVar("BUILDNAME") for mark in marks)
    bb.warn(
        f"detbuild: {len(marks)} degraded session{'s' * (len(marks) > 1)}, of {', '.join(recipes)}"
        f"{f' ({earlier} in an earlier build)' if earlier else ''}: what they made may differ elsewhere, and nothing "
        f"that was made of it went to sstate. The first: {'; '.join(marks[0].why)}. See "
        f"`{d.getVar('DETBUILD_LAYERDIR')}/scripts/detbuild doctor`; then `bitbake -C "
        f"{marks[0].task.removeprefix('do_')} RECIPE` makes it anew"
    )


def _mark(d: Any, task: str, **known: Any) -> Mark:
    name = f"{d.getVar('PN')}-{d.getVar('PV')}"
    file, taskhash = d.getVar("BB_FILENAME"), d.getVar("BB_TASKHASH") or ""
    return Mark(name, file, task, taskhash, d.getVar("BUILDNAME") or "", **known)


def _tid(d: Any, task: str) -> str:
    return f"{d.getVar('BB_FILENAME')}:{task}"


def _record(d: Any, task: str) -> Path:
    return Path(d.getVar("T"), f"detbuild.{task}.json")


def _collected(d: Any, task: str) -> audits.Place:
    return audits.place(Path(d.getVar("DETBUILD_AUDIT_DIR")), d.getVar("PN"), task, d.getVar("BB_CURRENT_MC") or "")
