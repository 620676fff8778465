# SPDX-License-Identifier: MIT
"""The recipe of an artefact that is no package: by sstate's manifests of the TMPDIR it stands in, or by its place.

What OE-Core writes: a manifest of what each task installed (sstate.bbclass), the recipe's name in an sstate archive's
(SSTATE_PKGSPEC), in the path of its history (buildhistory.bbclass) and of its licences (license.bbclass).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from detbuild.compare.origin import indexed

_SSTATE = re.compile(r"sstate:([^:/]+):")
_HISTORY = ("latest", "files-in-", "build-id", "pkg_")
_ELSEWHERE = ("populate_sysroot", "package", "packagedata")  # the longest manifests, of what is never deployed


class Manifests:
    """Of one tree, read once; nothing where the tree is not inside a TMPDIR.

    ``warnings`` collects what went wrong on the way: a build may be at work there.
    """

    def __init__(self, tree: Path) -> None:
        self._tree = tree.resolve()
        self.warnings: list[str] = []
        self._recipes: dict[str, str] | None = None

    def recipe(self, artefact: str) -> str | None:
        """Whose the file at `artefact`, relative to the tree, is."""
        return by_place(self._tree / artefact) or self._installed().get(artefact)

    def _installed(self) -> dict[str, str]:
        if self._recipes is None:
            self._recipes = {}
            try:
                self._read(self._recipes)
            except OSError as error:
                self.warnings.append(f"sstate's manifests beside {self._tree} do not name every recipe: {error}")
        return self._recipes

    def _read(self, recipes: dict[str, str]) -> None:
        for one in indexed(self._tree):
            for manifest in one.manifests():
                if one.task(manifest) not in _ELSEWHERE:
                    for path in one.files_inside(manifest):
                        recipes.setdefault(path, one.recipe)


def by_place(path: Path) -> str | None:
    """What names and directories say."""
    if found := _SSTATE.match(path.name):
        return found[1]
    parts = path.parts
    if "packages" in parts[:-3] and path.name.startswith(_HISTORY):
        # packages/ARCHITECTURE/RECIPE/latest, and PACKAGE between the two
        return parts[parts.index("packages") + 2]
    if (path.parent / "recipeinfo").is_file():
        return os.path.basename(path.parent)
    return None
