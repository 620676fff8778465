# SPDX-License-Identifier: MIT
"""A recipe's epoch: what BitBake's d says about the sources, and where the answer is kept.

SDE_FILE is the one truth; ``${WORKDIR}/__source-date-epoch.txt`` is its copy. Callers: ``stamp(d)`` once the
source is there and before it is patched, ``restore(d)`` wherever SDE_FILE came from somewhere else.

A file of that name in WORKDIR is the copy that an earlier stamp left, or one that the recipe's own do_unpack
wrote. The copy is dated with the very moment it states, which nobody else does (``epoch.is_own``): it is removed
before the sources are asked, so that a new SRCREV never keeps the old epoch. What SRC_URI brings lands in
UNPACKDIR, which every unpack empties; there OE-Core's spelling of the name counts as well.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from detbuild import epoch, git_history
from detbuild.epoch import FILE_NAMES, ORDER, Epoch, Sources
from detbuild.errors import EpochError
from detbuild.unpacked import Recipe, Unpacked


def stamp(d: Any) -> Epoch:
    """Resolve the recipe's epoch and keep it: in SDE_FILE, its copy in WORKDIR and, of a kernel, beside its source.

    Forgets first what an earlier unpack wrote. Each of the epoch's warnings becomes a bb.warn; an EpochError
    ends the task by bb.fatal. A recipe that sets SOURCE_DATE_EPOCH itself is taken at its word.
    """
    import bb

    try:
        found = _stated(d) or _resolve(d)
        for path in (d.getVar("SDE_FILE"), _copy(d), *_beside_kernel(d)):
            epoch.write(path, found.value)
    except EpochError as error:
        _forget(d)
        bb.fatal(str(error))
    # OE-Core keeps what SDE_FILE said before, for whoever expands SOURCE_DATE_EPOCH next in this task.
    d.delVar("__CACHED_SOURCE_DATE_EPOCH")
    for warning in found.warnings:
        bb.warn(f"SOURCE_DATE_EPOCH: {warning}")
    bb.debug(1, f"SOURCE_DATE_EPOCH: {found.value} from {found.origin}: {found.evidence}")
    return found


def restore(d: Any) -> int | None:
    """Make the copy in WORKDIR from SDE_FILE where it is missing or states something else.

    For tasks whose unpack did not run here: after setscene, after rm_work, and where an OE-Core task brought
    SDE_FILE from a shared source (gcc). Cheap, and silent where there is no SDE_FILE: a packagegroup or an image
    has none. Returns the epoch in seconds, or None. An SDE_FILE that states no time ends the task by bb.fatal.
    """
    import bb

    truth, copy = d.getVar("SDE_FILE"), _copy(d)
    if not truth or not os.path.lexists(truth):
        return None
    try:
        value = epoch.read(truth)
        for path in (copy, *_beside_kernel(d)):
            if not (epoch.is_own(path) and epoch.read(path) == value):
                epoch.write(path, value)
    except EpochError as error:
        bb.fatal(str(error))
    return value


def forget_copies(d: Any) -> None:
    """Of a recipe that has left: remove what an earlier stamp left beside SDE_FILE, for others to find."""
    for path in (_copy(d), *_beside_kernel(d)):
        if epoch.is_own(path):
            os.unlink(path)


def stated(d: Any) -> str:
    """The SOURCE_DATE_EPOCH that the recipe or its configuration sets; "" where OE-Core's function finds it.

    bitbake.conf asks a function, which reads SDE_FILE; anything else was set.
    """
    raw = d.getVar("SOURCE_DATE_EPOCH", False)
    return "" if not raw or "get_source_date_epoch_value" in raw else str(d.getVar("SOURCE_DATE_EPOCH"))


def sources(d: Any) -> Sources:
    """Where the sources of this recipe are, and which of their times can be believed.

    Raises EpochError where SRC_URI or SOURCE_DATE_EPOCH_FALLBACK cannot be understood.
    """
    unpackdir, external = _unpackdir(d), d.getVar("EXTERNALSRC")
    top = d.getVar("S") or unpackdir or d.getVar("WORKDIR")
    unpacked = Unpacked.of(_urls(d), _names(d, unpackdir)) if unpackdir else Unpacked()
    places = [path for path in (unpackdir, d.getVar("SOURCE_BASEDIR")) if path]
    candidates = [os.path.join(place, name) for place in places for name in FILE_NAMES]
    build = os.path.realpath(d.getVar("B") or top)
    inside = {build} if build.startswith(f"{os.path.realpath(top)}/") else set()
    return Sources(
        top=top,
        unpackdir=unpackdir,
        roots=(git_history.devtool_top(external),) if external else (),
        files=(*unpacked.epoch_files, *_beside_shared(d), *candidates, _copy(d)),
        written=unpacked.written | inside,
        revisions=unpacked.revisions,
        since=_task_start() if d.getVar("BB_CURRENTTASK") == "unpack" else None,
        last=_last(d),
        fallback=_fallback(d),
    )


def _resolve(d: Any) -> Epoch:
    where = sources(d)
    _forget(d)
    return epoch.resolve(where, _order(d))


def _unpackdir(d: Any) -> str:
    """UNPACKDIR where this recipe's do_unpack fills it; else "": what lies there is of another time or recipe.

    Under externalsrc do_unpack exists only for the recipe's file:// items; without it an earlier build's checkout
    may still be there. Where UNPACKDIR is WORKDIR, as before OE-Core 5.1, S alone is searched.
    """
    unpackdir = d.getVar("UNPACKDIR") or ""
    runs = bool(d.getVarFlag("do_unpack", "task"))
    return "" if not runs or unpackdir == d.getVar("WORKDIR") else unpackdir


def _urls(d: Any) -> list[Any]:
    import bb.fetch2

    urls = (d.getVar("SRC_URI") or "").split()
    if not urls:
        return []
    try:
        fetcher = bb.fetch2.Fetch(urls, d)
        for url in urls:
            fetcher.ud[url].setup_localpath(d)
    except bb.fetch2.BBFetchException as error:
        raise EpochError("SRC_URI cannot be understood", cause=str(error)) from error
    return [fetcher.ud[url] for url in urls]


def _names(d: Any, unpackdir: str) -> Recipe:
    git = d.getVar("BB_GIT_DEFAULT_DESTSUFFIX") or "git"
    return Recipe(unpackdir, d.getVar("BP") or "", git, d.getVar("GO_MOD_CACHE_DIR") or "pkg/mod")


def _copy(d: Any) -> str:
    return os.path.join(d.getVar("WORKDIR"), FILE_NAMES[0])


def _forget(d: Any) -> None:
    copy = _copy(d)
    for path in (d.getVar("SDE_FILE"), *([copy] if epoch.is_own(copy) else [])):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _last(d: Any) -> tuple[str, int] | None:
    truth = d.getVar("SDE_FILE")
    with suppress(EpochError):
        return (truth, epoch.read(truth))
    return None


def _order(d: Any) -> list[str]:
    named = d.getVar("DETBUILD_EPOCH_SOURCES")
    return list(ORDER) if named is None else named.split()


def _stated(d: Any) -> Epoch | None:
    value = stated(d)
    return Epoch(epoch.parse(value, "SOURCE_DATE_EPOCH"), "file", d.getVar("FILE")) if value else None


def _fallback(d: Any) -> int:
    name = "SOURCE_DATE_EPOCH_FALLBACK"
    return epoch.parse(d.getVar(name), name) if d.getVar(name) else epoch.FALLBACK


def _beside_kernel(d: Any) -> list[str]:
    # perf and other users of a kernel's source have no do_unpack and no way to the kernel's own WORKDIR.
    import bb

    kernel = d.getVar("STAGING_KERNEL_DIR")
    return [_beside(kernel)] if kernel and bb.data.inherits_class("kernel", d) else []


def _beside_shared(d: Any) -> list[str]:
    """Where the recipe that unpacked a shared source left its epoch: beside a kernel's, or in its own WORKDIR.

    That source is patched by now, so its files' times say nothing. rust and clang point UNPACKDIR there.
    """
    import bb

    unpackdir = d.getVar("UNPACKDIR") or ""
    if d.getVarFlag("do_unpack", "task") or d.getVar("EXTERNALSRC"):
        return []
    if bb.data.inherits_class("kernelsrc", d):
        return [_beside(d.getVar("STAGING_KERNEL_DIR"))]
    shared = bool(unpackdir) and not unpackdir.startswith(d.getVar("WORKDIR").rstrip("/") + "/")
    return [os.path.join(os.path.dirname(unpackdir), FILE_NAMES[0])] if shared else []


def _beside(kernel: str) -> str:
    return kernel.rstrip("/") + FILE_NAMES[0]


def _task_start() -> float:
    """When this process began, in seconds since 1970; whole seconds earlier rather than later.

    Field 22 of /proc/self/stat counts clock ticks since boot (proc(5)).
    """
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return float(int(time.time() - age) - 1)
