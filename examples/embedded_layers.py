"""What the embedded BitBake reads beside the layers themselves, in temporary directories of this process.

yocto-check-layer takes every directory with a conf/ in it for a layer. So that it finds none but meta-detbuild in
a clone, neither a build directory nor the example's core layer has one there.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def configure(top: Path, layers: Iterable[Path], local: str) -> Path:
    """Write bblayers.conf and local.conf for the build directory ``top``; returns the directory for BBPATH."""
    place = _temporary(f"configuration of {top}")
    (place / "conf").mkdir(exist_ok=True)
    names = " ".join(map(str, layers))
    (place / "conf" / "bblayers.conf").write_text(
        f'TOPDIR = "{top}"\nBBPATH = "{place}"\nBBFILES ?= ""\nBBLAYERS = "{names}"\n'
    )
    (place / "conf" / "local.conf").write_text(local + "\n")
    return place


@functools.cache
def linked(layer: Path) -> Path:
    """A layer that calls its conf/ configuration/, under the name that BitBake wants."""
    if not (layer / "configuration").is_dir():
        return layer
    place = _temporary(f"layer {layer}")
    for item in layer.iterdir():
        (place / ("conf" if item.name == "configuration" else item.name)).symlink_to(item)
    return place


@functools.cache
def _temporary(_purpose: str) -> Path:
    """One directory a purpose: paths enter BitBake's hash of the configuration, and what it imports stays."""
    place = Path(tempfile.mkdtemp(prefix="detbuild-embedded-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
