# SPDX-License-Identifier: MIT
"""Whether two trees are two builds at all, or one build seen twice.

Seen: files that are one inode (hard links, bind mounts, one directory under two names, one tree inside the other),
and deploy directories still inside their TMPDIR whose stamps say that a recipe's task was restored from sstate.
Not seen: copies and reflinks, a deploy directory that was moved out of its TMPDIR, and where a restored object came
from: BitBake keeps no record of which build or mirror filled the cache.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from detbuild.compare.collect import Tree
from detbuild.compare.model import shown


def shared_inodes(a: Tree, b: Tree) -> list[str]:
    """Warnings about files that both trees hold as one."""
    if os.path.samefile(a.root, b.root):
        return ["A and B are one directory: it is compared with itself"]
    identities = {entry.identity for entry in a.entries.values()}
    shared = sorted(path for path, entry in b.entries.items() if entry.identity in identities)
    if not shared:
        return []
    return [
        f"{len(shared)} of {len(b.entries)} files of B are the very files of A (one inode; {_some(shared, 3)}): "
        "there, A is compared with itself"
    ]


def shared_sstate(a: Path, b: Path) -> list[str]:
    """Warnings about recipes whose output in these trees was restored from sstate rather than built."""
    try:
        in_a, in_b = set(restored(a)), set(restored(b))
    except OSError as error:
        return [f"whether A and B come from one sstate cache cannot be told: {error}"]
    warnings = []
    if both := sorted(in_a & in_b):
        warnings.append(
            f"{_recipes(both)} restored from sstate in A and in B ({_some(both, 8)}): these may be one build's "
            "output, compared with itself. Build again with an empty SSTATE_DIR and no SSTATE_MIRRORS"
        )
    for side, other, only in (("A", "B", in_a - in_b), ("B", "A", in_b - in_a)):
        if only:
            warnings.append(
                f"{_recipes(only)} restored from sstate in {side} ({_some(sorted(only), 8)}): if {other}'s build "
                f"filled that cache, {other} is compared with itself there"
            )
    return warnings


@dataclass(frozen=True)
class Indexed:
    """One recipe's entry in sstate-control, as seen from ``tree``. ``old_tmpdir`` is what the build called TMPDIR: it
    may stand elsewhere by now, or in a container.
    """

    recipe: str
    stamp: str
    base: Path
    old_tmpdir: str
    tmpdir: Path
    tree: Path

    def manifests(self) -> list[str]:
        """The files that list what each task installed."""
        return sorted(glob.glob(f"{glob.escape(str(self.base))}.*"))

    def task(self, manifest: str) -> str:
        return manifest[len(str(self.base)) + 1 :]

    def files_inside(self, manifest: str) -> Iterator[str]:
        """Paths below ``tree`` of the files, not directories, that are listed."""
        inside = os.path.join(self.old_tmpdir, self.tree.relative_to(self.tmpdir), "")
        with open(manifest, errors="surrogateescape") as files:
            for line in files:
                if line.startswith(inside) and not line.endswith("/\n"):
                    yield line.rstrip("\n")[len(inside) :]


def indexed(tree: Path) -> Iterator[Indexed]:
    """Every recipe that has a manifest in the TMPDIR around `tree`; nothing where there is none."""
    tree = tree.resolve()
    tmpdir = next((parent for parent in tree.parents if (parent / "sstate-control").is_dir()), None)
    if tmpdir is None:
        return
    for index in sorted((tmpdir / "sstate-control").glob("index-*")):
        for line in index.read_text(errors="surrogateescape").splitlines():
            words = line.split()
            if len(words) == 3:
                stamp, manifest, _workdir = words
                base = tmpdir / "sstate-control" / os.path.basename(manifest)
                recipe, old_tmpdir = (
                    os.path.basename(os.path.dirname(stamp)),
                    os.path.dirname(os.path.dirname(manifest)),
                )
                yield Indexed(recipe, stamp, base, old_tmpdir, tmpdir, tree)


def restored(tree: Path) -> Iterator[str]:
    """The recipes of which a restored task put files into `tree`, from sstate-control and stamps (sstate.bbclass).

    Yields nothing where `tree` is not inside a TMPDIR.
    """
    for one in indexed(tree):
        stamp_now = glob.escape(str(one.tmpdir / os.path.relpath(one.stamp, one.old_tmpdir)))
        for manifest in one.manifests():
            setscene = f"{stamp_now}.do_{one.task(manifest)}_setscene.*"
            if glob.glob(setscene) and any(True for _path in one.files_inside(manifest)):
                yield one.recipe
                break


def _recipes(names: Collection[str]) -> str:
    return "1 recipe was" if len(names) == 1 else f"{len(names)} recipes were"


def _some(names: list[str], limit: int) -> str:
    more = ["..."] if len(names) > limit else []
    return ", ".join([shown(name) for name in names[:limit]] + more)
