# SPDX-License-Identifier: MIT
"""What one unpack put where: which of its files carry the times of their making, and which that of the unpack.

Follows ``unpack()`` of BitBake's lib/bb/fetch2, whose rules for destinations are not reachable otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detbuild.epoch import FILE_NAMES

ARCHIVES = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.Z", ".tar.bz2", ".tar.xz", ".tar.lz", ".tar.7z", ".tar.zst"),
    *(".zip", ".jar", ".7z", ".rpm", ".srpm", ".deb", ".ipk"),
)
"""Carry the times of their members."""
COMPRESSED = (".gz", ".Z", ".z", ".bz2", ".xz", ".lz", ".zst")
"""Of a lone file: unpacked to now."""


class Recipe(NamedTuple):
    """The variables that say where sources go: UNPACKDIR, BP, BB_GIT_DEFAULT_DESTSUFFIX and GO_MOD_CACHE_DIR."""

    unpackdir: str
    bp: str
    git_suffix: str = "git"
    go_cache: str = "pkg/mod"


class Item(NamedTuple):
    """One entry of SRC_URI: the path it was unpacked to, and the revision if that is a bare repository."""

    path: str
    bare_revision: str = ""


@dataclass(frozen=True)
class Unpacked:
    """``written``: files and directories without times of their own; ``epoch_files``: those that SRC_URI names."""

    written: frozenset[str] = frozenset()
    epoch_files: tuple[str, ...] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, urls: Iterable[Any], recipe: Recipe) -> Unpacked:
        """What BitBake's FetchData ``urls``, the entries of SRC_URI, put into the recipe's UNPACKDIR."""
        items = [item for ud in urls for item in _items(ud, recipe)]
        return cls(
            frozenset(item.path for item in items),
            tuple(item.path for item in items if os.path.basename(item.path) in FILE_NAMES),
            {item.path: item.bare_revision for item in items if item.bare_revision},
        )


class _Place(NamedTuple):
    """``ud`` is the entry of SRC_URI; ``base`` is where most fetchers put it: UNPACKDIR and the subdir parameter."""

    ud: Any
    base: str
    recipe: Recipe

    def parameter(self, name: str, default: str = "") -> str:
        return str(self.ud.parm.get(name, default))

    def below(self, *names: str) -> Item:
        return Item(os.path.join(self.recipe.unpackdir, *names))


def _items(ud: Any, recipe: Recipe) -> list[Item]:
    base = os.path.join(recipe.unpackdir, ud.parm.get("subdir", ""))
    return FETCHERS.get(ud.type, _local)(_Place(ud, base, recipe))


def _local(place: _Place) -> list[Item]:
    name = os.path.basename(place.ud.localpath.rstrip("/"))
    unpack = place.parameter("unpack", "1").lower() not in ("0", "n", "no", "false")
    if unpack and name.endswith(ARCHIVES):
        return []
    if unpack and name.endswith(COMPRESSED):
        # BitBake decompresses beside the other sources, whatever "subdir" says.
        return [place.below(os.path.splitext(name)[0])]
    return [Item(os.path.join(place.base, place.ud.path.strip("/") if place.ud.type == "file" else name))]


def _git(place: _Place) -> list[Item]:
    subpath = place.parameter("subpath").rstrip("/")
    default = os.path.basename(subpath) if subpath else place.recipe.git_suffix
    suffix = place.parameter("destsuffix", "" if place.parameter("subdir") else default)
    path = os.path.join(place.base, suffix).rstrip("/")
    # Of a mirror or a clone without checkout, HEAD is whatever upstream's default branch was when it was fetched.
    return [Item(path, place.ud.revision if place.ud.nocheckout else "")]


def _go_module(place: _Place) -> list[Item]:
    bare = _git(place) if place.ud.type == "gomodgit" else []
    return [place.below(place.recipe.go_cache, "cache"), *bare]


def _crate(place: _Place) -> list[Item]:
    # The crate that is the recipe's own source is unpacked like a tarball.
    own = place.parameter("name") == place.recipe.bp
    return [] if own else [place.below("cargo_home", "bitbake")]


def _npm(place: _Place) -> list[Item]:
    return []


def _npm_shrinkwrap(place: _Place) -> list[Item]:
    return [place.below(place.parameter("destsuffix"), "npm-shrinkwrap.json")]


def _svn(place: _Place) -> list[Item]:
    return [Item(os.path.join(place.base, place.ud.path_spec))]


def _hg(place: _Place) -> list[Item]:
    return [place.below(place.parameter("destsuffix", place.ud.module))]


def _checkout(place: _Place) -> list[Item]:
    # An archive that BitBake made of a checkout: every time in it is that of the checkout.
    return [Item(place.base.rstrip("/"))]


FETCHERS: dict[str, Callable[[_Place], list[Item]]] = {
    "git": _git,
    "gitsm": _git,
    "gitannex": _git,
    "gomod": _go_module,
    "gomodgit": _go_module,
    "crate": _crate,
    "npm": _npm,
    "npmsw": _npm_shrinkwrap,
    "svn": _svn,
    "hg": _hg,
    "repo": _checkout,
    "p4": _checkout,
    "ccrc": _checkout,
}
"""The others (file, http, https, ftp, sftp, s3, az, gs, ssh) leave the unpacking to the common ``unpack()``."""
