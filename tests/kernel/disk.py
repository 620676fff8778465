"""A read-only disk with what a virtual machine reads often: its share of this machine's files is slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOUNT = Path("/run/detbuild-disk")  # inside

_SYSTEM = ("bin", "include", "lib/gcc", "lib/python3", "lib/python3.*", "lib/x86_64-linux-gnu", "share/perl")
_KEPT_OUT = (".git", ".mypy_cache", ".ruff_cache", ".pytest_cache")


class Disk:
    """An image of some of this machine's directories, each seen inside at its own place, and of ``inputs``.

    ``repository`` is compiled first, for this interpreter, so that no machine has to. Raises CalledProcessError.
    """

    def __init__(self, image: Path, repository: Path, inputs: Path) -> None:
        self.image = image
        self.inputs = Path(f"{MOUNT}{inputs}")
        """Where ``inputs`` is inside."""
        self._directories = [path for name in _SYSTEM for path in sorted(Path("/usr").glob(name))] + [repository]
        subprocess.run([sys.executable, "-m", "compileall", "-q", repository / "lib"], check=True)
        command = ["mksquashfs", *map(str, (*self._directories, inputs, image)), "-no-strip", "-no-xattrs", "-quiet"]
        command += ["-no-progress", *(f"-no{kind}" for kind in "IDFX")]  # what is not compressed need not be emulated
        excluded = [f"... {name}" for name in _KEPT_OUT]
        subprocess.run([*command, "-wildcards", "-e", *excluded], check=True, stdout=subprocess.DEVNULL)

    def options(self) -> str:
        """QEMU's."""
        drive = f"file={self.image},if=none,id=disk,format=raw,readonly=on"
        return f"-drive {drive} -device virtio-blk-pci,drive=disk"

    def script(self) -> list[str]:
        """Shell lines that lay the directories over the machine's own."""
        first = f"modprobe -a virtio_blk squashfs && mkdir {MOUNT} && mount -o ro /dev/vda {MOUNT} || exit"
        return [first, *(f"mount --bind {MOUNT}{path} {path} || exit" for path in self._directories)]
