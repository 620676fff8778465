# SPDX-License-Identifier: MIT
"""From a package file to its package and recipe.

What OE-Core writes (package_deb, package_ipk and package_rpm.bbclass): .deb and .ipk carry the recipe's PN in
the control field ``OE``. An .rpm has no such field, but its spec file is named after PN and split packages are
``%package -n``, so PN is what stands before version and release in the header's SOURCERPM. pkgdata
(``tmp/pkgdata/MACHINE``) knows a package by its final name in ``runtime-reverse``, after debian.bbclass renamed it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detbuild.compare import control
from detbuild.compare.control import Unnamed
from detbuild.errors import CompareError

HEADER_LIMIT = 64 << 20  # bytes; an .rpm header of many thousand files has a few MiB

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_FILE_NAME = re.compile(r"(?P<deb>[^_]+)_.*\.(?:deb|ipk)|(?P<rpm>.+)-[^-]+-[^-]+\.rpm")


class Recipes:
    """Names packages and recipes. Without pkgdata, the packages' own fields alone.

    ``warnings`` collects what went wrong on the way: an unreadable package never stops a comparison.
    """

    def __init__(self, pkgdata: Sequence[Path] = ()) -> None:
        """`pkgdata`: directories like tmp/pkgdata, or one machine's below it. Raises CompareError for others."""
        self._machines = [machine for directory in pkgdata for machine in _machines(directory)]
        self.warnings: list[str] = []
        self._files: dict[str, tuple[str, str | None]] | None = None

    def owners(self, places: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, str | None]]:
        """Who put files into an image: (package, recipe) by the path in the image, for those that pkgdata knows."""
        found = {}
        for where in places:
            for step in where:
                path = "/" + step.removeprefix("./").lstrip("/")
                if owner := self._owners().get(path):
                    found["/".join(where)] = owner
        return found

    def _owners(self) -> dict[str, tuple[str, str | None]]:
        """Every file that pkgdata lists (``FILES_INFO:PACKAGE``, package.bbclass), read once when first asked."""
        if self._files is None:
            self._files = {}
            for machine in self._machines:
                for path in sorted((machine / "runtime").glob("*")):
                    if path.suffix != ".packaged":
                        self._read_files(path)
        return self._files

    def _read_files(self, path: Path) -> None:
        assert self._files is not None
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            names = next((line.partition(": ")[2] for line in lines if line.startswith("FILES_INFO:")), "{}")
            package = next((line.partition(": ")[2] for line in lines if line.startswith("PKG:")), path.name)
            for name in json.loads(names):
                self._files[name] = package, _field(lines, "PN")
        except (OSError, ValueError, TypeError) as error:
            self.warnings.append(f"{path}: its list of files cannot be read ({error})")

    def name(self, path: Path) -> tuple[str | None, str | None]:
        """(package, recipe) of the file at `path`: (None, None) for what is no package."""
        guess = _FILE_NAME.fullmatch(path.name)
        if guess is None and path.suffix not in _READERS:
            return None, None
        package = recipe = None
        try:
            package, recipe = _READERS[path.suffix](path)
        except Unnamed as error:
            self.warnings.append(f"{path}: its package fields cannot be read ({error}); its file name was used")
        package = package or (guess and (guess["deb"] or guess["rpm"]))
        return package, recipe or (package and self._from_pkgdata(package))

    def _from_pkgdata(self, package: str) -> str | None:
        # The name comes from the package itself, and must not lead out of pkgdata.
        if not _NAME.fullmatch(package):
            return None
        for machine in self._machines:
            for kind in ("runtime-reverse", "runtime"):
                try:
                    lines = (machine / kind / package).read_text(encoding="utf-8", errors="replace").splitlines()
                except OSError:
                    continue
                if recipe := _field(lines, "PN"):
                    return recipe
        return None


def pkgdata_of(trees: Iterable[Path]) -> list[Path]:
    """The pkgdata of the TMPDIRs that trees stand in, or are: of each the nearest, once."""
    found: dict[Path, None] = {}
    for tree in trees:
        for above in (tree.resolve(), *tree.resolve().parents):
            if next((above / "pkgdata").glob("*/runtime/"), None):
                found[above / "pkgdata"] = None
                break
    return list(found)


def _machines(directory: Path) -> list[Path]:
    machines = [path for path in (directory, *sorted(directory.glob("*"))) if (path / "runtime").is_dir()]
    if not machines:
        raise CompareError(
            f"{directory} is no pkgdata",
            cause="neither it nor a directory in it has a directory called runtime",
            remedy="give a build's tmp/pkgdata/MACHINE",
        )
    return machines


def _field(lines: Iterable[str], name: str) -> str | None:
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:")), None) or None


def _from_header(path: Path) -> tuple[str | None, str | None]:
    try:
        import rpmfile
    except ImportError as error:
        raise Unnamed(f"{error}; install rpmfile") from error
    try:
        with path.open("rb") as stream:
            headers = rpmfile.RPMFile(fileobj=io.BytesIO(stream.read(HEADER_LIMIT))).headers
            package = headers["name"].decode("utf-8", "replace")
            source = headers.get("sourcerpm", b"").decode("utf-8", "replace")
    except Exception as error:
        # rpmfile checks little: a damaged header surfaces as whatever Python makes of it.
        raise Unnamed(f"{type(error).__name__}: {error}") from error
    parts = source.rsplit("-", 2)
    return package, parts[0] if len(parts) == 3 else None


_READERS = {".deb": control.names, ".ipk": control.names, ".rpm": _from_header}
